// SPDX-License-Identifier: MIT
/*
 * Many threads that read a cached file in small pieces, as fast as they can.
 *
 * usage: busy FILE THREADS READS BYTES
 *
 * Each thread does READS reads of BYTES, from the file's start again at its end; says on
 * stdout: reads, bytes, and the ns from the first thread's begin to the last one's end.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char *path;
static long reads, size, length;
static pthread_barrier_t start;

static long long now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static void *work(void *unused)
{
	char *buffer = malloc(size);
	int fd = open(path, O_RDONLY);
	long done = 0, at = 0, n;

	(void)unused;
	pthread_barrier_wait(&start);
	for (n = 0; n < reads; n++) {
		long got = pread(fd, buffer, size, at);

		if (got != size)
			abort();
		done += got;
		at = at + 2 * size > length ? 0 : at + size;
	}
	close(fd);
	free(buffer);
	return (void *)done;
}

int main(int argc, char **argv)
{
	struct stat status;
	pthread_t *threads;
	long count, total = 0, n;
	long long began;

	if (argc != 5 || stat(argv[1], &status))
		return 2;
	path = argv[1];
	length = status.st_size;
	count = atol(argv[2]);
	reads = atol(argv[3]);
	size = atol(argv[4]);
	threads = calloc(count, sizeof(*threads));
	pthread_barrier_init(&start, NULL, count + 1);
	for (n = 0; n < count; n++)
		if (pthread_create(&threads[n], NULL, work, NULL))
			return 1;
	pthread_barrier_wait(&start);
	began = now();
	for (n = 0; n < count; n++) {
		void *done;

		pthread_join(threads[n], &done);
		total += (long)done;
	}
	printf("%ld %ld %lld\n", count * reads, total, now() - began);
	return 0;
}
