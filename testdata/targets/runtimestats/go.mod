module runtimestats

go 1.18
