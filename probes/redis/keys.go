package redis

// keySteps says where the keys among a command's arguments are: 1, the first is one;
// all, every one is; n > 1, every nth from the first on is. Of commands that are not
// here the number of keys is not said.
const all = -1

var keySteps = map[string]int{
	"DEL": all, "UNLINK": all, "EXISTS": all, "TOUCH": all, "MGET": all, "WATCH": all,
	"SINTER": all, "SUNION": all, "SDIFF": all, "SINTERSTORE": all, "SUNIONSTORE": all,
	"SDIFFSTORE": all, "PFCOUNT": all, "PFMERGE": all, "RENAME": all, "RENAMENX": all,
	"RPOPLPUSH": all, "MSET": 2, "MSETNX": 2,

	"APPEND": 1, "BITCOUNT": 1, "BITFIELD": 1, "BITPOS": 1, "DECR": 1, "DECRBY": 1, "DUMP": 1,
	"EXPIRE": 1, "EXPIREAT": 1, "EXPIRETIME": 1, "GEOADD": 1, "GEODIST": 1, "GEOHASH": 1,
	"GEOPOS": 1, "GEOSEARCH": 1, "GET": 1, "GETBIT": 1, "GETDEL": 1, "GETEX": 1, "GETRANGE": 1,
	"GETSET": 1, "HDEL": 1, "HEXISTS": 1, "HGET": 1, "HGETALL": 1, "HINCRBY": 1,
	"HINCRBYFLOAT": 1, "HKEYS": 1, "HLEN": 1, "HMGET": 1, "HMSET": 1, "HRANDFIELD": 1,
	"HSCAN": 1, "HSET": 1, "HSETNX": 1, "HSTRLEN": 1, "HVALS": 1, "INCR": 1, "INCRBY": 1,
	"INCRBYFLOAT": 1, "LINDEX": 1, "LINSERT": 1, "LLEN": 1, "LPOP": 1, "LPOS": 1, "LPUSH": 1,
	"LPUSHX": 1, "LRANGE": 1, "LREM": 1, "LSET": 1, "LTRIM": 1, "MOVE": 1, "PERSIST": 1,
	"PEXPIRE": 1, "PEXPIREAT": 1, "PFADD": 1, "PSETEX": 1, "PTTL": 1, "RESTORE": 1, "RPOP": 1,
	"RPUSH": 1, "RPUSHX": 1, "SADD": 1, "SCARD": 1, "SET": 1, "SETBIT": 1, "SETEX": 1,
	"SETNX": 1, "SETRANGE": 1, "SISMEMBER": 1, "SMEMBERS": 1, "SMISMEMBER": 1, "SORT": 1,
	"SPOP": 1, "SRANDMEMBER": 1, "SREM": 1, "SSCAN": 1, "STRLEN": 1, "TTL": 1, "TYPE": 1,
	"XACK": 1, "XADD": 1, "XDEL": 1, "XLEN": 1, "XRANGE": 1, "XREVRANGE": 1, "XTRIM": 1,
	"ZADD": 1, "ZCARD": 1, "ZCOUNT": 1, "ZINCRBY": 1, "ZLEXCOUNT": 1, "ZPOPMAX": 1,
	"ZPOPMIN": 1, "ZRANGE": 1, "ZRANGEBYLEX": 1, "ZRANGEBYSCORE": 1, "ZRANK": 1, "ZREM": 1,
	"ZREMRANGEBYRANK": 1, "ZREMRANGEBYSCORE": 1, "ZREVRANGE": 1, "ZREVRANGEBYSCORE": 1,
	"ZREVRANK": 1, "ZSCAN": 1, "ZSCORE": 1,
}

// keys returns how many keys a command with that many arguments has.
func keys(name string, args int) (n int, ok bool) {
	step, ok := keySteps[name]
	switch {
	case !ok || args < 1:
		return 0, false
	case step == all:
		return args, true
	case step == 1:
		return 1, true
	default:
		return (args + step - 1) / step, true
	}
}
