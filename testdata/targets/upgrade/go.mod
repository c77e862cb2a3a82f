module upgrade

go 1.18
