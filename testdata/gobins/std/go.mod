module tracer.example/gobins/std

go 1.18
