// SPDX-License-Identifier: GPL-2.0-only
/*
 * fuzz SEED CALLS DIRECTORY: processes of threads throw CALLS ioctls and what
 * goes with them at the loader module: fds, ranges and flags picked at random, on
 * buffers that they share, while signals arrive, fds are closed and used again,
 * files change their size, processes are killed and the module's removal is tried.
 *
 * SEED decides every thread's sequence of calls; how they interleave is up to the
 * kernel.  Whether a call succeeds is of no interest, except that its errno must be
 * one that the module promises, that its results are plausible, and that files and
 * buffers only ever hold what was written to them.
 *
 * Exit: 0; 1: something was wrong, and stderr says what; 2: cannot run here;
 * 3: nothing went on for a minute.  Prints how often each outcome came.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "dmatrace_loader.h"
#include "fuzz.h"

#define PROCESSES 3
#define THREADS 3
#define SHARED_SIZE (2 << 20)
#define ERRNOS 134
#define HANG_SECONDS 60

/* Seen by all processes. */
static struct {
	_Atomic long ioctls, wrong, outcomes[OPERATIONS][ERRNOS];
	atomic_bool stop;
} *all;

void complain(const char *format, ...)
{
	char text[256];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	/* Not every wrong byte of a wrong buffer. */
	if (all->wrong++ < 20 && write(STDERR_FILENO, text, length) < 0)
		_exit(2);
}

/* -- workers --------------------------------------------------------------- */

/* What the header promises.  Not EINTR: nobody who was killed is here to see it. */
static int is_promised(int number)
{
	switch (number) {
	case EBADF: case EFAULT: case EINVAL: case ENOMEM: case ENOTTY: case EOPNOTSUPP:
	case EBUSY: case EPERM: case EMFILE:
		return 1;
	default:
		return 0;
	}
}

static void *work(void *start)
{
	struct dice dice = { (uint64_t)(uintptr_t)start };
	/* The calls under test come more often than what surrounds them. */
	static const unsigned char often[] = {
		0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 8, 9, 10, 10, 11,
	};

	while (!all->stop) {
		unsigned int operation = often[below(&dice, sizeof(often))];
		int number = one(&dice, operation) < 0 ? errno : 0;

		all->outcomes[operation][number % ERRNOS]++;
		if (number && operation < FIRST_OTHER && !is_promised(number))
			complain("%s: %s\n", names[operation], strerror(number));
	}
	return NULL;
}

static void nothing(int number)
{
	(void)number;
}

/* A worker process; never returns. */
static void process(uint64_t seed)
{
	struct sigaction act = { .sa_handler = nothing };
	struct itimerval timer = { { 0, 7000 }, { 0, 7000 } };
	struct dice dice = { seed | 1 };
	pthread_t threads[THREADS];
	unsigned int i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* Without SA_RESTART: calls see signals. */
	sigaction(SIGALRM, &act, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
	for (i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)(roll(&dice) | 1)))
			_exit(2);
	for (i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	_exit(0);
}

static pid_t start(struct dice *dice)
{
	uint64_t seed = roll(dice);
	pid_t child = fork();

	if (!child)
		process(seed);
	return child;
}

/* -- the start and the end ------------------------------------------------- */

static void must(int holds, const char *what)
{
	if (holds)
		return;
	perror(what);
	exit(2);
}

/* What all processes share: a buffer of each kind that the kernel has, and a stream. */
static void make_shared(void)
{
	struct dmatrace_loader_alloc own = { .length = SHARED_SIZE, .fd_flags = O_RDWR };
	struct dmatrace_loader_stream stream = { 0 };
	struct { uint64_t length; uint32_t fd, fd_flags; uint64_t flags; } heap = { 0 };
	struct { uint32_t memfd, flags; uint64_t offset, size; } udmabuf = { 0 };
	unsigned int slot = FILE_SLOTS;
	int fd;

	must(!call(DMATRACE_LOADER_ALLOC, &own), "alloc");
	slots[slot++] = stream.buffer_fd = own.fd;
	must(!call(DMATRACE_LOADER_STREAM, &stream), "stream");
	slots[slot++] = stream.fd;
	own.flags = DMATRACE_LOADER_MMAP_INSERT;
	must(!call(DMATRACE_LOADER_ALLOC, &own), "alloc");
	slots[slot++] = own.fd;
	fd = memfd_create("shared", MFD_ALLOW_SEALING);
	must(!ftruncate(fd, SHARED_SIZE) && !fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), "memfd");
	slots[slot++] = udmabuf.memfd = fd;
	udmabuf.size = SHARED_SIZE;
	fd = open("/dev/udmabuf", O_RDWR);
	if (fd >= 0) {
		slots[slot++] = ioctl(fd, _IOW('u', 0x42, udmabuf), &udmabuf);
		must(slots[slot - 1] > 0, "udmabuf");
		close(fd);
	}
	heap.length = SHARED_SIZE;
	heap.fd_flags = O_RDWR;
	fd = open("/dev/dma_heap/system", O_RDWR);
	if (fd >= 0) {
		must(!ioctl(fd, _IOWR('H', 0, heap), &heap), "dma-heap");
		slots[slot++] = heap.fd;
		close(fd);
	}
}

/* Files are only ever cut short and written by resize(). */
static void check_files(void)
{
	char path[256];
	unsigned int i;

	for (i = 0; i < FILES; i++) {
		unsigned char data[65536];
		ssize_t got, at;
		int fd;

		snprintf(path, sizeof(path), "%s/fuzz%u", folder, i);
		fd = open(path, O_RDONLY);
		while ((got = read(fd, data, sizeof(data))) > 0)
			for (at = 0; at < got; at++)
				if (data[at] && data[at] != FILE_BYTE)
					complain("byte %#x in %s\n", data[at], path);
		close(fd);
		unlink(path);
	}
}

/* Where everyone is, for whoever reads of a hang. */
static void print_stacks(void)
{
	DIR *processes = opendir("/proc");
	struct dirent *entry;
	char path[300], data[8192];

	while (processes && (entry = readdir(processes))) {
		int fd, got;

		snprintf(path, sizeof(path), "/proc/%.200s/stack", entry->d_name);
		fd = open(path, O_RDONLY);
		got = fd < 0 ? 0 : read(fd, data, sizeof(data));
		if (got > 0 && memmem(data, got, "dml_", 4))
			fprintf(stderr, "%s\n%.*s", path, got, data);
		close(fd);
	}
}

static void report(const char *seed, long kills, long busy)
{
	unsigned int i, j;

	printf("seed %s: %ld ioctls, %ld processes killed, %ld removals refused\n", seed,
	       all->ioctls, kills, busy);
	for (i = 0; i < OPERATIONS; i++) {
		printf("%s:", names[i]);
		for (j = 0; j < ERRNOS; j++)
			if (all->outcomes[i][j])
				printf(" %s=%ld", j ? strerrorname_np(j) : "ok", all->outcomes[i][j]);
		printf("\n");
	}
}

int main(int argc, char **argv)
{
	struct dice dice;
	pid_t children[PROCESSES];
	long wanted, kills = 0, busy = 0, seen = 0;
	time_t moved = time(NULL);
	char path[256];
	unsigned int i;

	if (argc != 4) {
		fprintf(stderr, "usage: fuzz SEED CALLS DIRECTORY\n");
		return 2;
	}
	dice.state = strtoull(argv[1], NULL, 0) * 2654435761u + 1;
	wanted = atol(argv[2]);
	folder = argv[3];
	memset(whole, FILE_BYTE, sizeof(whole));
	memset(text, STREAM_BYTE, sizeof(text));
	all = mmap(NULL, sizeof(*all), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	must(all != MAP_FAILED, "mmap");
	ioctls = &all->ioctls;
	must(dup2(open("/dev/dmatrace_loader", O_RDWR), DEVICE_FD) >= 0, "/dev/dmatrace_loader");
	must(dup2(memfd_create("scratch", 0), SCRATCH_FD) >= 0, "memfd");
	for (i = 0; i < SLOTS; i++)
		slots[i] = -1;
	for (i = 0; i < FILES; i++) {
		snprintf(path, sizeof(path), "%s/fuzz%u", folder, i);
		slots[i] = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
		must(write(slots[i], whole, FILE_SIZE) == FILE_SIZE, path);
	}
	make_shared();
	for (i = 0; i < PROCESSES; i++)
		must((children[i] = start(&dice)) > 0, "fork");
	while (all->ioctls < wanted) {
		usleep(20000 + below(&dice, 200000));
		i = below(&dice, PROCESSES);
		kill(children[i], SIGKILL);
		waitpid(children[i], NULL, 0);
		kills++;
		if (syscall(SYS_delete_module, "dmatrace_loader", O_NONBLOCK) && errno == EWOULDBLOCK)
			busy++;
		else
			complain("the module in use was removed\n");
		must((children[i] = start(&dice)) > 0, "fork");
		if (all->ioctls != seen) {
			seen = all->ioctls;
			moved = time(NULL);
		} else if (time(NULL) - moved > HANG_SECONDS) {
			print_stacks();
			return 3;
		}
	}
	all->stop = true;
	/* Whoever hangs now is ended by whoever started us; so say who it is. */
	for (i = 0; i < PROCESSES; i++) {
		for (moved = time(NULL); !waitpid(children[i], NULL, WNOHANG); usleep(10000))
			if (time(NULL) - moved > HANG_SECONDS) {
				print_stacks();
				return 3;
			}
	}
	check_files();
	report(argv[1], kills, busy);
	return all->wrong ? 1 : 0;
}
