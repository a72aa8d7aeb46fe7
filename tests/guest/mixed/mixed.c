// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mixed workloads: 1 to MOST threads that each do random things, between marks
 * as a loader sets them, with a clock of their own around it.
 *
 *     mixed FILE SEED FIRST COUNT MOST
 *
 * It begins when a byte comes on stdin.  A line per thread and workload:
 * LOAD TID START END MARK RUN WAIT READ DIRECT WRITTEN (ns, bytes), see clock.py.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "mixed.h"

#define MARKER 0x444D5452
#define LEAST_NS 20000000ULL /* that a thread is busy: its marks are small beside it */

struct shared shared;
static pthread_barrier_t ready;
static pthread_mutex_t output = PTHREAD_MUTEX_INITIALIZER;

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static void ran(int fd, unsigned long long *run, unsigned long long *wait)
{
	char text[64] = "";

	sched_yield(); /* the scheduler brings the run time up to date when it runs */
	if (pread(fd, text, sizeof(text) - 1, 0) <= 0 || sscanf(text, "%llu %llu", run, wait) != 2)
		abort();
}

static void *work(void *argument)
{
	struct worker *w = argument;
	unsigned long long run0, wait0, run1, wait1;
	uint64_t start, begun, end, ended;
	char path[64];
	int schedstat;

	w->tid = syscall(SYS_gettid);
	if (posix_memalign((void **)&w->room, 4096, ROOM))
		abort();
	snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat", w->tid);
	schedstat = open(path, O_RDONLY | O_CLOEXEC);
	pthread_barrier_wait(&ready);
	ran(schedstat, &run0, &wait0);
	start = now();
	prctl(MARKER, 1, (long)w->load, 0L, 0L);
	begun = now();
	do
		do_something(w);
	while (now() - begun < LEAST_NS);
	end = now();
	prctl(MARKER, 2, (long)w->load, 0L, 0L);
	ended = now();
	ran(schedstat, &run1, &wait1);
	close(schedstat);
	free(w->room);
	pthread_mutex_lock(&output);
	printf("%d %d %lu %lu %lu %llu %llu %lu %lu %lu\n", w->load, w->tid, start, end,
	       begun - start + ended - end, run1 - run0, wait1 - wait0, w->read, w->direct,
	       w->written);
	fflush(stdout);
	pthread_mutex_unlock(&output);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[64];
	struct worker workers[64];
	struct worker chooser = {};
	struct stat status;
	int load, first, count, most, n, i;
	char byte;

	if (argc != 6)
		return 2;
	shared.path = argv[1];
	first = atoi(argv[3]);
	count = atoi(argv[4]);
	most = atoi(argv[5]);
	shared.cached = open(shared.path, O_RDONLY | O_CLOEXEC);
	shared.direct = open(shared.path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (shared.cached < 0 || shared.direct < 0 || fstat(shared.cached, &status) || most > 64) {
		perror(shared.path);
		return 1;
	}
	shared.size = status.st_size;
	operations_init();
	if (read(0, &byte, 1) != 1)
		return 1;
	for (load = first; load < first + count; load++) {
		/* A workload is the same whichever was the first. */
		chooser.random = (strtoull(argv[2], NULL, 0) + load) * 0x9E3779B97F4A7C15ULL | 1;
		for (i = 0; i < 8; i++)
			below(&chooser, 2);
		n = 1 + below(&chooser, most);
		pthread_barrier_init(&ready, NULL, n);
		for (i = 0; i < n; i++) {
			workers[i] = (struct worker){ .load = load };
			below(&chooser, 2);
			/* Else all of them would do the same, one step apart. */
			workers[i].random = chooser.random * 0xD1342543DE82EF95ULL | 1;
			if (pthread_create(&threads[i], NULL, work, &workers[i]))
				abort();
		}
		for (i = 0; i < n; i++)
			pthread_join(threads[i], NULL);
		pthread_barrier_destroy(&ready);
	}
	return 0;
}
