// SPDX-License-Identifier: GPL-2.0-only
/*
 * The calls of fuzz.c: each takes its arguments from a thread's dice.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "dmatrace_loader.h"
#include "fuzz.h"

const char *const names[OPERATIONS] = {
	"query", "rw_file", "alloc", "alloc_read", "stream", "garbage",
	"write", "sendfile", "mmap", "close", "open", "resize",
};

_Atomic int slots[SLOTS];
_Atomic long *ioctls;
const char *folder;
char whole[FILE_SIZE], text[300000];

uint64_t roll(struct dice *dice)
{
	dice->state ^= dice->state << 13;
	dice->state ^= dice->state >> 7;
	dice->state ^= dice->state << 17;
	return dice->state * 0x2545f4914f6cdd1dULL;
}

uint64_t below(struct dice *dice, uint64_t limit)
{
	return (roll(dice) >> 11) % limit;
}

/* -- what calls are made of ------------------------------------------------ */

/* Mostly sizes that mean something, at times anything. */
static uint64_t size(struct dice *dice)
{
	switch (below(dice, 12)) {
	case 0: return 0;
	case 1: return roll(dice);
	case 2: return ~0ULL - below(dice, 9000);
	case 3: return (1ULL << 63) + below(dice, 3) - 1;
	case 4: return below(dice, 5000);
	case 5: return FILE_SIZE - below(dice, 5000);
	case 6: return below(dice, 4) * 1048576;
	default: return below(dice, 512) * 4096;
	}
}

static uint32_t flags(struct dice *dice, uint32_t known)
{
	return below(dice, 20) ? (uint32_t)roll(dice) & known : (uint32_t)roll(dice);
}

static int pick(struct dice *dice)
{
	return below(dice, 40) ? slots[below(dice, SLOTS)] : (int)below(dice, 200) - 20;
}

/* A file or device to read from, or what calls itself so. */
static int pick_file(struct dice *dice)
{
	return below(dice, 3) ? slots[below(dice, FILE_SLOTS)] : pick(dice);
}

static void keep(struct dice *dice, int fd, int is_file)
{
	unsigned int slot = is_file ? below(dice, FILE_SLOTS) :
				      FILE_SLOTS + below(dice, SLOTS - FILE_SLOTS);
	int old = atomic_exchange(&slots[slot], fd);

	if (old > 2)
		close(old);
}

/* -- the ioctls ------------------------------------------------------------ */

int call(unsigned long number, void *argument)
{
	++*ioctls;
	return ioctl(DEVICE_FD, number, argument);
}

static int query(struct dice *dice)
{
	struct dmatrace_loader_query arg = { .reserved = { !below(dice, 3) } };

	return call(DMATRACE_LOADER_QUERY, &arg);
}

static int rw_file(struct dice *dice)
{
	struct dmatrace_loader_rw_file arg = {
		.file_fd = pick_file(dice), .buffer_fd = pick(dice),
		.flags = flags(dice, DMATRACE_LOADER_RW_FLAGS),
		.file_offset = below(dice, 3) ? 0 : size(dice),
		.buffer_offset = below(dice, 3) ? 0 : size(dice), .length = size(dice),
		.chunk = below(dice, 3) ? 0 : size(dice), .reserved = !below(dice, 50),
	};
	int ret = call(DMATRACE_LOADER_RW_FILE, &arg);

	if (!ret && (arg.bytes > arg.length || arg.map_ns + arg.read_ns > arg.total_ns))
		complain("rw_file: %llu of %llu bytes\n", (unsigned long long)arg.bytes,
			 (unsigned long long)arg.length);
	return ret;
}

static int alloc(struct dice *dice)
{
	struct dmatrace_loader_alloc arg = {
		.length = size(dice), .flags = flags(dice, DMATRACE_LOADER_MMAP_INSERT),
		.fd_flags = below(dice, 8) ? O_RDWR : (uint32_t)roll(dice), .fd = -2,
	};
	int ret = call(DMATRACE_LOADER_ALLOC, &arg);

	if (!ret)
		keep(dice, arg.fd, 0);
	return ret;
}

static int alloc_read(struct dice *dice)
{
	struct dmatrace_loader_alloc_read arg = {
		.file_fd = pick_file(dice),
		.flags = flags(dice, DMATRACE_LOADER_ALLOC_FLAGS & ~DMATRACE_LOADER_MMAP_INSERT_NO_RSS),
		.fd_flags = below(dice, 8) ? O_RDWR : (uint32_t)roll(dice),
		.file_offset = below(dice, 3) ? 0 : size(dice), .length = below(dice, 2) * size(dice),
		.chunk = below(dice, 3) ? 0 : below(dice, 64) * 4096,
	};
	int ret;

	if (arg.flags & DMATRACE_LOADER_ALLOC_GATHER) {
		arg.gather = below(dice, 3) ? 1048576 : size(dice);
		arg.jobs = below(dice, 18);
	}
	ret = call(DMATRACE_LOADER_ALLOC_READ, &arg);
	if (ret)
		return ret;
	if (arg.bytes > arg.length || arg.buffer_length - arg.length >= 4096 ||
	    arg.overlap_ns > arg.alloc_ns || arg.read_ns > arg.total_ns)
		complain("alloc_read: %llu of %llu bytes in %llu\n", (unsigned long long)arg.bytes,
			 (unsigned long long)arg.length, (unsigned long long)arg.buffer_length);
	keep(dice, arg.fd, 0);
	return ret;
}

static int stream(struct dice *dice)
{
	struct dmatrace_loader_stream arg = {
		.buffer_fd = pick(dice), .offset = below(dice, 2) * size(dice),
		.length = below(dice, 2) * size(dice), .fd_flags = below(dice, 2) ? O_CLOEXEC : 0,
	};
	int ret = call(DMATRACE_LOADER_STREAM, &arg);

	if (!ret)
		keep(dice, arg.fd, 0);
	return ret;
}

/* Random bytes, random numbers, addresses that are none. */
static int garbage(struct dice *dice)
{
	static const unsigned long numbers[] = {
		DMATRACE_LOADER_QUERY, DMATRACE_LOADER_RW_FILE, DMATRACE_LOADER_ALLOC,
		DMATRACE_LOADER_ALLOC_READ, DMATRACE_LOADER_STREAM,
	};
	uint64_t data[32];
	unsigned int i;

	for (i = 0; i < 32; i++)
		data[i] = roll(dice);
	if (!below(dice, 3))
		return call(numbers[below(dice, 5)], (void *)(uintptr_t)roll(dice));
	return call(below(dice, 4) ? numbers[below(dice, 5)] : roll(dice), data);
}

/* -- what surrounds them --------------------------------------------------- */

/* Only fds that are streams: everything else must keep its content. */
static int stream_fd(struct dice *dice)
{
	char path[32], link[64] = "";
	int fd = pick(dice);

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (readlink(path, link, sizeof(link) - 1) < 0 || !strstr(link, "dmatrace_loader]"))
		return -1;
	return fd;
}

static int write_stream(struct dice *dice)
{
	int fd = stream_fd(dice);
	const void *from = below(dice, 9) ? text : (void *)8;

	return pwrite(fd, from, below(dice, sizeof(text)), below(dice, 2 << 20)) < 0 ? -1 : 0;
}

static int send_to_stream(struct dice *dice)
{
	int fd = stream_fd(dice);

	return sendfile(fd, pick_file(dice), NULL, below(dice, 1 << 20)) < 0 ? -1 : 0;
}

/* One byte of memory that may not be there: -1, and no signal. */
static int look(const unsigned char *at)
{
	unsigned char byte;
	off_t mine = gettid();

	if (pwrite(SCRATCH_FD, at, 1, mine) != 1 || pread(SCRATCH_FD, &byte, 1, mine) != 1)
		return -1;
	return byte;
}

/* Maps whatever a fd is, looks at it, and unmaps it in pieces. */
static int map(struct dice *dice)
{
	size_t length = 4096 * (1 + below(dice, 600)), at;
	unsigned char *memory = mmap(NULL, length, PROT_READ | (below(dice, 2) ? PROT_WRITE : 0),
				     below(dice, 8) ? MAP_SHARED : MAP_PRIVATE, pick(dice),
				     4096 * below(dice, 8));

	if (memory == MAP_FAILED)
		return -1;
	if (!below(dice, 4))
		madvise(memory, length, MADV_DONTNEED);
	for (at = below(dice, 4096); at < length; at += 1 + below(dice, 40000)) {
		int byte = look(memory + at);

		if (byte > 0 && byte != FILE_BYTE && byte != STREAM_BYTE)
			complain("byte %#x at %zu of a mapping\n", byte, at);
	}
	if (!below(dice, 4))
		munmap(memory, 4096);
	munmap(memory, length);
	return 0;
}

static int open_another(struct dice *dice)
{
	static const int modes[] = { O_RDONLY, O_RDONLY | O_DIRECT, O_WRONLY, O_RDWR };
	char path[256];
	int fd, is_file = 0;

	switch (below(dice, 8)) {
	case 0:
		fd = memfd_create("fuzz", MFD_ALLOW_SEALING);
		if (fd >= 0 && !ftruncate(fd, below(dice, 600) * 4096) && !below(dice, 4))
			fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE);
		break;
	case 1:
		fd = open("/proc/self/status", O_RDONLY);
		break;
	default:
		snprintf(path, sizeof(path), "%s/fuzz%d", folder, (int)below(dice, FILES));
		fd = open(path, modes[below(dice, 4)], 0600);
		is_file = 1;
	}
	if (fd >= 0)
		keep(dice, fd, is_file);
	return fd < 0 ? -1 : 0;
}

static int resize(struct dice *dice)
{
	char path[256];
	int fd, ret;

	snprintf(path, sizeof(path), "%s/fuzz%d", folder, (int)below(dice, FILES));
	if (below(dice, 3))
		return truncate(path, below(dice, FILE_SIZE));
	/* Whole again, with content. */
	fd = open(path, O_WRONLY);
	ret = pwrite(fd, whole, FILE_SIZE, 0) < 0 ? -1 : 0;
	if (fd >= 0)
		close(fd);
	return ret;
}

int one(struct dice *dice, unsigned int operation)
{
	switch (operation) {
	case 0: return query(dice);
	case 1: return rw_file(dice);
	case 2: return alloc(dice);
	case 3: return alloc_read(dice);
	case 4: return stream(dice);
	case 5: return garbage(dice);
	case 6: return write_stream(dice);
	case 7: return send_to_stream(dice);
	case 8: return map(dice);
	case 9:
		keep(dice, -1, !below(dice, 8));
		return 0;
	case 10: return open_another(dice);
	default: return resize(dice);
	}
}
