module httpmatrix

go 1.18
