module bodies

go 1.18
