module redistarget

go 1.18

require (
	github.com/go-redis/redis/v8 v8.11.0
	github.com/gomodule/redigo v1.8.9
	github.com/redis/go-redis/v9 v9.0.2
)

require (
	github.com/cespare/xxhash/v2 v2.2.0 // indirect
	github.com/dgryski/go-rendezvous v0.0.0-20200823014737-9f7001d12a5f // indirect
)
