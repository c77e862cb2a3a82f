module trivial

go 1.18
