module early

go 1.18
