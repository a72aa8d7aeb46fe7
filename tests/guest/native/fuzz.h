/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared by fuzz.c, the processes, and fuzz_calls.c, what they call.
 */
#ifndef DMATRACE_FUZZ_H
#define DMATRACE_FUZZ_H

#include <stdatomic.h>
#include <stdint.h>

#define SLOTS 48
/* Fds of files stay in the first slots, so that a good part of all calls has one. */
#define FILE_SLOTS 8
#define FILES 3
#define FILE_SIZE (3 << 20)
#define DEVICE_FD 500
#define SCRATCH_FD 501

/* The only bytes that are ever written to a file, and through a stream. */
#define FILE_BYTE 0x5a
#define STREAM_BYTE 0x3c

/* Operations; those before FIRST_OTHER are ioctls of the module. */
#define OPERATIONS 12
#define FIRST_OTHER 6

struct dice {
	uint64_t state;
};

uint64_t roll(struct dice *dice);
uint64_t below(struct dice *dice, uint64_t limit);
int call(unsigned long number, void *argument);
int one(struct dice *dice, unsigned int operation);

void __attribute__((format(printf, 1, 2))) complain(const char *format, ...);

extern const char *const names[OPERATIONS];
extern _Atomic int slots[SLOTS];
/* ioctls of all processes together. */
extern _Atomic long *ioctls;
extern const char *folder;
extern char whole[FILE_SIZE], text[300000];

#endif
