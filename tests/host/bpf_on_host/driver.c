// SPDX-License-Identifier: GPL-2.0-only
/* Behind dmatrace/bpf's files: what the test reads and sets. */
u64 host_cookie, host_args[3], host_return;

static u64 the_cookie(void *ctx)
{
	(void)ctx;
	return host_cookie;
}

static long the_arg(void *ctx, u32 n, u64 *value)
{
	(void)ctx;
	*value = host_args[n];
	return 0;
}

static long the_return(void *ctx, u64 *value)
{
	(void)ctx;
	*value = host_return;
	return 0;
}

/* What the current thread came into the kernel with: the test sets the system call's number. */
u8 host_registers[256];

static u64 the_task(void)
{
	return host_task;
}

static u64 the_registers(u64 task)
{
	(void)task;
	return (u64)host_registers;
}

void host_reset(void)
{
	current_task_btf = the_task;
	task_registers = the_registers;
	attach_cookie = the_cookie;
	func_arg = the_arg;
	func_ret = the_return;
	memset(threads_slots, 0, sizeof(threads_slots));
	memset(execs_of_slots, 0, sizeof(execs_of_slots));
	memset(execs_now_slots, 0, sizeof(execs_now_slots));
	memset(files_slots, 0, sizeof(files_slots));
	memset(owners_slots, 0, sizeof(owners_slots));
	memset(flights_slots, 0, sizeof(flights_slots));
	memset(dios_slots, 0, sizeof(dios_slots));
	memset(dio_writes_slots, 0, sizeof(dio_writes_slots));
	memset(file_ios_slots, 0, sizeof(file_ios_slots));
	memset(memory_devs_slots, 0, sizeof(memory_devs_slots));
	memset(lost_slots, 0, sizeof(lost_slots));
	memset(removers_slots, 0, sizeof(removers_slots));
	memset(elsewhere_slots, 0, sizeof(elsewhere_slots));
	memset(pinned_slots, 0, sizeof(pinned_slots));
	memset(ways_slots, 0, sizeof(ways_slots));
	memset(regions_slots, 0, sizeof(regions_slots));
	memset(dio_ways_slots, 0, sizeof(dio_ways_slots));
	host_clock = host_pid_tgid = host_task = host_ring_used = host_ring_full = 0;
}

struct thread *host_thread(u32 tid)
{
	return threads.lookup(&tid);
}

int host_follow(u32 tid, struct thread *t)
{
	return threads.update(&tid, t);
}

struct file_pages *host_file(u64 ino, u64 dev)
{
	struct file_key key = { .ino = ino, .dev = dev };

	return files.lookup(&key);
}

int host_memory_dev(u32 dev, u32 kind)
{
	return memory_devs.update(&dev, &kind);
}

struct file_io *host_file_io(u64 ino, u64 dev)
{
	struct file_key key = { .ino = ino, .dev = dev };

	return file_ios.lookup(&key);
}

u64 host_lost(void)
{
	return lost_slots[LOST_RING] + lost_slots[LOST_ROOM];
}

u64 host_pinned(int slot)
{
	return pinned_slots[slot];
}

u64 host_elsewhere(int how)
{
	return elsewhere_slots[how];
}

/* The n-th way that is in use, its key into ``key``; or none. */
struct way *host_way(int n, struct way_key *key)
{
	for (int i = 0; i < WAYS_MAX; i++)
		if (ways_slots[i].used && !n--) {
			*key = ways_slots[i].key;
			return &ways_slots[i].leaf;
		}
	return 0;
}

struct regions *host_regions(u32 tgid)
{
	return regions.lookup(&tgid);
}
