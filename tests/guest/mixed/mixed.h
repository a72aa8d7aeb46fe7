/* SPDX-License-Identifier: GPL-2.0-only */
/* What mixed.c's threads share with the things they do (operations.c). */
#ifndef MIXED_H
#define MIXED_H

#include <stdint.h>
#include <sys/types.h>

#define ROOM (1 << 20) /* bytes of a thread's own buffer */

struct worker {
	uint64_t random;
	int load;
	char *room;             /* ROOM bytes, page-aligned */
	int tid;
	/* What it did, as it knows itself; bytes. */
	uint64_t read;          /* through the page cache of the file */
	uint64_t direct;        /* with O_DIRECT */
	uint64_t written;       /* into memfds */
};

struct shared {
	const char *path;
	int cached;             /* the file, opened without O_DIRECT */
	int direct;             /* and with it */
	off_t size;
};

extern struct shared shared;

uint64_t below(struct worker *w, uint64_t limit);
void do_something(struct worker *w);
void operations_init(void);

#endif
