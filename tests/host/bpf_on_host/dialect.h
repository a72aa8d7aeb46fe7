/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * bcc's dialect for an ordinary C compiler: in front of dmatrace/bpf's files,
 * which stay as they are.  Maps are arrays searched from the start; clock,
 * current task and comm are variables that the test sets.
 */
#include <stddef.h>
#include <string.h>

typedef unsigned char u8;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;

#define __always_inline inline __attribute__((always_inline))
#define BPF_RB_NO_WAKEUP 1

u64 host_clock, host_pid_tgid, host_task, host_frames[128], host_framed;
char host_comm[16];

static u64 bpf_ktime_get_ns(void)
{
	return host_clock;
}

static u64 bpf_get_current_pid_tgid(void)
{
	return host_pid_tgid;
}

static u64 bpf_get_current_task(void)
{
	return host_task;
}

/* The kernel says -EFAULT where there is no kernel frame. */
static long bpf_get_stack(void *ctx, void *into, u32 size, u64 flags)
{
	u64 bytes = host_framed * sizeof(u64) < size ? host_framed * sizeof(u64) : size;

	(void)ctx;
	(void)flags;
	memcpy(into, host_frames, bytes);
	return bytes ? (long)bytes : -14;
}

static int bpf_get_current_comm(void *into, u32 size)
{
	memcpy(into, host_comm, size < sizeof(host_comm) ? size : sizeof(host_comm));
	return 0;
}

static int bpf_probe_read_kernel(void *into, u32 size, const void *from)
{
	if ((u64)from < 4096)
		return -14;
	memcpy(into, from, size);
	return 0;
}

static int bpf_probe_read_kernel_str(char *into, u32 size, const char *from)
{
	if (!from)
		return -14;
	strncpy(into, from, size - 1);
	into[size - 1] = 0;
	return 0;
}

static int bpf_probe_read_user(void *into, u32 size, const void *from)
{
	return bpf_probe_read_kernel(into, size, from);
}

static int bpf_probe_read_user_str(char *into, u32 size, const char *from)
{
	return bpf_probe_read_kernel_str(into, size, from);
}

/*
 * A full map refuses, as a BPF hash does with -E2BIG.  The next NAME_blind look-ups find
 * nothing, as if another CPU made the entry just afterwards.
 */
#define BPF_HASH(name, key_t, leaf_t, max)                                         \
	static struct { int used; key_t key; leaf_t leaf; } name##_slots[max];     \
	int name##_blind;                                                          \
	static leaf_t *name##_lookup(key_t *key)                                   \
	{                                                                          \
		if (name##_blind && name##_blind--)                                \
			return 0;                                                  \
		for (int i = 0; i < (max); i++)                                    \
			if (name##_slots[i].used &&                                \
			    !memcmp(&name##_slots[i].key, key, sizeof(key_t)))     \
				return &name##_slots[i].leaf;                      \
		return 0;                                                          \
	}                                                                          \
	static int name##_update(key_t *key, leaf_t *leaf)                         \
	{                                                                          \
		leaf_t *old = name##_lookup(key);                                  \
		for (int i = 0; !old && i < (max); i++)                            \
			if (!name##_slots[i].used) {                               \
				name##_slots[i].used = 1;                          \
				name##_slots[i].key = *key;                        \
				old = &name##_slots[i].leaf;                       \
			}                                                          \
		if (!old)                                                          \
			return -7;                                                 \
		*old = *leaf;                                                      \
		return 0;                                                          \
	}                                                                          \
	static int name##_insert(key_t *key, leaf_t *leaf)                         \
	{                                                                          \
		return name##_lookup(key) ? -17 : name##_update(key, leaf);        \
	}                                                                          \
	static int name##_delete(key_t *key)                                       \
	{                                                                          \
		for (int i = 0; i < (max); i++)                                    \
			if (name##_slots[i].used &&                                \
			    !memcmp(&name##_slots[i].key, key, sizeof(key_t)))     \
				name##_slots[i].used = 0;                          \
		return 0;                                                          \
	}                                                                          \
	static const struct {                                                      \
		leaf_t *(*lookup)(key_t *);                                        \
		int (*update)(key_t *, leaf_t *);                                  \
		int (*insert)(key_t *, leaf_t *);                                  \
		int (*delete)(key_t *);                                            \
	} name = { name##_lookup, name##_update, name##_insert, name##_delete };

#define BPF_TABLE(kind, key_t, leaf_t, name, max) BPF_HASH(name, key_t, leaf_t, max)

#define BPF_ARRAY(name, leaf_t, max)                                               \
	static leaf_t name##_slots[max];                                           \
	static leaf_t *name##_lookup(int *key)                                     \
	{                                                                          \
		return *key >= 0 && *key < (max) ? &name##_slots[*key] : 0;        \
	}                                                                          \
	static const struct { leaf_t *(*lookup)(int *); } name = { name##_lookup };

#define BPF_PERCPU_ARRAY(name, leaf_t, max) BPF_ARRAY(name, leaf_t, max)

/* Records one after the other, each behind its size; host_ring_full refuses. */
u64 host_ring_used, host_ring_full;
u8 host_ring[1 << 22];

#define BPF_RINGBUF_OUTPUT(name, pages)                                            \
	static int name##_output(void *data, u64 size, u64 flags)                  \
	{                                                                          \
		(void)flags;                                                       \
		if (host_ring_full || host_ring_used + size + 8 > sizeof(host_ring)) \
			return -11;                                                \
		memcpy(host_ring + host_ring_used, &size, 8);                      \
		memcpy(host_ring + host_ring_used + 8, data, size);                \
		host_ring_used += size + 8;                                        \
		return 0;                                                          \
	}                                                                          \
	static const struct { int (*ringbuf_output)(void *, u64, u64); } name = {  \
		name##_output };

struct bpf_raw_tracepoint_args {
	u64 args[8];
};

struct filemap_event {
	u64 i_ino;
	u64 s_dev;
	u64 index;
	u8 order;
};

#define RAW_TRACEPOINT_PROBE(event) int event(struct bpf_raw_tracepoint_args *ctx)
#define TRACEPOINT_PROBE(category, event) int event(struct filemap_event *args)
#define KFUNC_PROBE(name) int entry_##name(void *ctx)
#define KRETFUNC_PROBE(name) int exit_##name(void *ctx)
