// SPDX-License-Identifier: GPL-2.0-only
/*
 * The things a thread of a mixed workload does, a few milliseconds each: reads
 * of every kind, mappings, faults inside copies, sleeping, waiting for others,
 * signals that jump out of their handler, children, buffers.  What is read or
 * written is counted from return values.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/dma-heap.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mixed.h"

#define PAGE 4096UL

static pthread_mutex_t contended = PTHREAD_MUTEX_INITIALIZER;
static __thread sigjmp_buf out_of_handler;
static __thread volatile sig_atomic_t may_jump;

uint64_t below(struct worker *w, uint64_t limit)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return w->random % limit;
}

static off_t place(struct worker *w, size_t room, size_t step)
{
	return below(w, (shared.size - room) / step) * step;
}

static void nap(long ns)
{
	struct timespec t = { ns / 1000000000, ns % 1000000000 };

	nanosleep(&t, NULL);
}

static void compute_for(struct worker *w)
{
	volatile uint64_t sum = 0;
	uint64_t turns = below(w, 400000);

	while (turns--)
		sum += turns * turns;
}

static void read_cached(struct worker *w)
{
	size_t size = 1 + below(w, 256 << 10);
	ssize_t n = pread(shared.cached, w->room, size, place(w, size, 1));

	if (n > 0)
		w->read += n;
}

static void read_direct(struct worker *w)
{
	size_t size = PAGE * (1 + below(w, 64));
	ssize_t n = pread(shared.direct, w->room, size, place(w, size, PAGE));

	if (n > 0)
		w->direct += n;
}

/* The kernel refuses an unaligned address: a direct read that reads nothing. */
static void read_refused(struct worker *w)
{
	ssize_t n = pread(shared.direct, w->room + 1, PAGE, 0);

	if (n > 0)
		w->direct += n;
}

static void read_asynchronously(struct worker *w)
{
	aio_context_t context = 0;
	struct iocb jobs[4], *list[4];
	struct io_event done[4];
	int n = 1 + below(w, 4), i, ended;

	if (syscall(SYS_io_setup, 4, &context))
		return;
	memset(jobs, 0, sizeof(jobs));
	for (i = 0; i < n; i++) {
		jobs[i].aio_lio_opcode = IOCB_CMD_PREAD;
		jobs[i].aio_fildes = shared.direct;
		jobs[i].aio_buf = (uint64_t)(w->room + i * 64 * 1024);
		jobs[i].aio_nbytes = 64 * 1024;
		jobs[i].aio_offset = place(w, 64 * 1024, PAGE);
		list[i] = &jobs[i];
	}
	n = syscall(SYS_io_submit, context, n, list);
	if (n > 0) {
		ended = syscall(SYS_io_getevents, context, n, n, done, NULL);
		for (i = 0; i < ended; i++)
			if (done[i].res > 0)
				w->direct += done[i].res;
	}
	syscall(SYS_io_destroy, context);
}

static void touch(char *at, size_t size, int write)
{
	volatile char *p = at;
	size_t i;

	for (i = 0; i < size; i += PAGE)
		if (write)
			p[i] = 1;
		else
			(void)p[i];
}

static void map_file(struct worker *w)
{
	size_t size = PAGE * (1 + below(w, 128));
	char *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, shared.cached, place(w, size, PAGE));

	if (p == MAP_FAILED)
		return;
	touch(p, size, 0);
	munmap(p, size);
}

static void map_memory(struct worker *w)
{
	size_t size = PAGE * (1 + below(w, 256));
	char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return;
	touch(p, size, 1);
	madvise(p, size, MADV_DONTNEED);
	touch(p, size, 0);
	munmap(p, size);
}

/* A copy out of the page cache whose target is not there yet: faults inside it. */
static void read_into_the_unmapped(struct worker *w)
{
	size_t size = PAGE * (1 + below(w, 64));
	char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, shared.cached, 0);
	ssize_t n;

	if (p == MAP_FAILED)
		return;
	n = pread(shared.cached, p, size, place(w, size, 1));
	if (n > 0)
		w->read += n;
	munmap(p, size);
}

static void use_memfd(struct worker *w)
{
	size_t size = PAGE * (1 + below(w, 64));
	int fd = memfd_create("mixed", 0);
	ssize_t n;

	if (fd < 0)
		return;
	n = write(fd, w->room, size);
	if (n > 0)
		w->written += n;
	if (pread(fd, w->room, size, 0) < 0)
		abort();
	close(fd);
}

static void send_file(struct worker *w)
{
	size_t size = PAGE * (1 + below(w, 64));
	off_t at = place(w, size, PAGE);
	int fd = memfd_create("mixed", 0);
	ssize_t n;

	if (fd < 0)
		return;
	n = sendfile(fd, shared.cached, &at, size);
	if (n > 0)
		w->written += n;
	close(fd);
}

static void drop_or_fetch(struct worker *w)
{
	size_t size = PAGE * (1 + below(w, 256));
	off_t at = place(w, size, PAGE);

	if (below(w, 2))
		posix_fadvise(shared.cached, at, size, POSIX_FADV_DONTNEED);
	else
		readahead(shared.cached, at, size);
}

static void sleep_some(struct worker *w)
{
	nap(below(w, 3000000));
}

static void yield(struct worker *w)
{
	int n = below(w, 200);

	while (n--)
		sched_yield();
}

static void call_often(struct worker *w)
{
	int n = below(w, 2000);

	while (n--)
		syscall(SYS_getppid);
}

static void wait_for_others(struct worker *w)
{
	int n = below(w, 20);

	while (n--) {
		pthread_mutex_lock(&contended);
		if (below(w, 4) == 0)
			nap(20000);
		pthread_mutex_unlock(&contended);
	}
}

static void time_out(struct worker *w)
{
	int ends[2];
	struct pollfd p;

	if (pipe(ends))
		return;
	p = (struct pollfd){ .fd = ends[0], .events = POLLIN };
	poll(&p, 1, below(w, 4));
	close(ends[0]);
	close(ends[1]);
}

static void jump(int signal)
{
	(void)signal;
	if (may_jump) {
		may_jump = 0;
		siglongjmp(out_of_handler, 1);
	}
}

/* A handler that never returns: to a thread that runs, or one that is blocked in read(2). */
static void jump_out(struct worker *w)
{
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1 };
	struct itimerspec when = { .it_value.tv_nsec = 1 + below(w, 2000000) };
	volatile int blocked = below(w, 2);
	volatile int reading = -1, writing = -1;
	timer_t timer;
	int ends[2];
	char byte;

	event._sigev_un._tid = w->tid;
	if (timer_create(CLOCK_MONOTONIC, &event, &timer))
		return;
	if (pipe(ends) == 0) {
		reading = ends[0];
		writing = ends[1];
		if (!sigsetjmp(out_of_handler, 1)) {
			may_jump = 1;
			timer_settime(timer, 0, &when, NULL);
			while (may_jump)
				if (blocked && read(reading, &byte, 1) == 1)
					abort();
		}
		close(reading);
		close(writing);
	}
	timer_delete(timer);
}

static void have_a_child(struct worker *w)
{
	int exec = below(w, 4) == 0;
	pid_t pid = fork();

	if (pid == 0) {
		if (exec)
			execl("/bin/true", "true", (char *)NULL);
		_exit(0);
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
}

static void *read_apart(void *argument)
{
	char room[4096];

	if (pread(shared.cached, room, sizeof(room), *(off_t *)argument) < 0)
		abort();
	return NULL;
}

static void have_a_thread(struct worker *w)
{
	off_t at = place(w, 4096, 1);
	pthread_t thread;

	if (pthread_create(&thread, NULL, read_apart, &at) == 0)
		pthread_join(thread, NULL);
}

static void have_a_buffer(struct worker *w)
{
	struct dma_heap_allocation_data data = {
		.len = PAGE * (1 + below(w, 64)), .fd_flags = O_RDWR | O_CLOEXEC,
	};
	int heap = open("/dev/dma_heap/system", O_RDWR | O_CLOEXEC);
	char *p;

	if (heap < 0)
		return;
	if (ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data) == 0) {
		p = mmap(NULL, data.len, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
		if (p != MAP_FAILED) {
			ssize_t n = pread(shared.cached, p, data.len, 0);

			if (n > 0)
				w->read += n;
			/* VM_PFNMAP: EFAULT, and nothing is read. */
			n = pread(shared.direct, p, PAGE, 0);
			if (n > 0)
				w->direct += n;
			munmap(p, data.len);
		}
		close(data.fd);
	}
	close(heap);
}

static void (*const things[])(struct worker *) = {
	compute_for, read_cached, read_cached, read_direct, read_direct, read_refused,
	read_asynchronously, map_file, map_memory, read_into_the_unmapped, use_memfd, send_file,
	drop_or_fetch, sleep_some, yield, call_often, wait_for_others, time_out, jump_out,
	have_a_child, have_a_thread, have_a_buffer,
};

void do_something(struct worker *w)
{
	things[below(w, sizeof(things) / sizeof(*things))](w);
}

void operations_init(void)
{
	struct sigaction action = { .sa_handler = jump };

	sigaction(SIGUSR1, &action, NULL);
}
