module tracer.example/gobins/xnet

go 1.18

require golang.org/x/net v0.10.0

require golang.org/x/text v0.9.0 // indirect
