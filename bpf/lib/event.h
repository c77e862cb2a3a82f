/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * event.h - the one ring buffer, the header of every record in it, and the
 * counters of what did not get in.
 *
 * A wake-up of the reader costs 10-20 us in the watched program's time, so
 * records are submitted without one; the agent polls on a short timer, and a
 * program wakes it only when the ring is filling up, or with the first record after
 * a pause, for which the agent does not poll.
 */
#ifndef TR_EVENT_H
#define TR_EVENT_H

#define MAX_PROBES 32

struct event_hdr {
	__u16 probe_id;
	__u8 type; /* meaning belongs to the probe */
	__u8 pad;
	__u32 len; /* of the whole record, bytes */
	__u32 tgid;
	__u32 exe_id;
	__u64 proc_start_ns; /* start_boottime of the process */
};

/* Places of loss inside the kernel; user space adds its own. */
enum lost_place {
	LOST_RING_FULL = 0,
	LOST_MAP_FULL = 1, /* more operations in flight than the map holds */
	LOST_READ = 2,     /* a read of the target's memory that had to work did not */
	LOST_UNSANE = 3,   /* a value failed its sanity check */
	LOST_UNENDED = 4,  /* an operation's end was not seen; user space adds its own */
	LOST_PLACES = 5,
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20); /* bytes; user space may set another power of two */
} tr_events SEC(".maps");

/* Index: probe_id * LOST_PLACES + place. Only ever counted up. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_PROBES *LOST_PLACES);
	__type(key, __u32);
	__type(value, __u64);
} tr_lost SEC(".maps");

static __always_inline void count_lost(__u16 probe, enum lost_place place)
{
	__u32 key = probe * LOST_PLACES + place;
	__u64 *n = bpf_map_lookup_elem(&tr_lost, &key);

	if (n)
		__sync_fetch_and_add(n, 1);
}

/* Fill level in bytes past which a record wakes the reader. */
const volatile __u64 cfg_wake_bytes = 1 << 20;
/* Records are below this size, so a crossing of the level is seen by few. */
#define WAKE_WINDOW 8192

/* A probe that has been silent for so long wakes the reader; pauseAfter in
 * internal/event/reader.go is longer, so that the reader only rests when every probe
 * would wake it. */
#define SILENT_NS (1000 * 1000 * 1000LL)
/* The time is written anew after so long, not with each record: all processors share it. */
#define SPOKEN_NS (100 * 1000 * 1000LL)
/* When the probe had its last record, to SPOKEN_NS; CLOCK_MONOTONIC. Of two records at one
 * time that end a silence one or both wake the reader. */
static volatile __u64 last_spoken_ns;

/* Whether the record that is submitted next, at the time now, wakes the reader. */
static __always_inline __u64 event_flags(__u64 now)
{
	__u64 fill = bpf_ringbuf_query(&tr_events, BPF_RB_AVAIL_DATA);
	__s64 silent = now - last_spoken_ns; /* below 0: another processor was faster */
	__u64 flags = BPF_RB_NO_WAKEUP;

	if (silent > SPOKEN_NS) {
		last_spoken_ns = now;
		if (silent > SILENT_NS)
			flags = BPF_RB_FORCE_WAKEUP;
	}
	if (fill >= cfg_wake_bytes && (fill & (cfg_wake_bytes - 1)) < WAKE_WINDOW)
		flags = BPF_RB_FORCE_WAKEUP;
	return flags;
}

static __always_inline long event_output_at(void *rec, __u64 len, __u64 now)
{
	return bpf_ringbuf_output(&tr_events, rec, len, event_flags(now));
}

static __always_inline long event_output(void *rec, __u64 len)
{
	return event_output_at(rec, len, bpf_ktime_get_ns());
}

#endif
