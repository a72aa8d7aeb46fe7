// SPDX-License-Identifier: MIT
/*
 * Two threads that read each of many files for the first time, at the same time.
 *
 * usage: firsts DIRECTORY FILES BYTES
 *
 * Makes FILES files of BYTES; then both threads wait for each other before every file and
 * read it whole. Says on stdout how many bytes were read.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *directory;
static long files, size;
static atomic_long arrived, total;

static void name(char *path, size_t room, long n)
{
	snprintf(path, room, "%s/%ld", directory, n);
}

static void *work(void *unused)
{
	char path[4096], *buffer = malloc(size);
	long n;

	(void)unused;
	for (n = 0; n < files; n++) {
		int fd;

		name(path, sizeof(path), n);
		fd = open(path, O_RDONLY);
		/* Spinning, so that both go on within a few instructions. */
		atomic_fetch_add(&arrived, 1);
		while (atomic_load(&arrived) < 2 * (n + 1))
			;
		if (pread(fd, buffer, size, 0) != size)
			abort();
		atomic_fetch_add(&total, size);
		close(fd);
	}
	free(buffer);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[2];
	char path[4096], *buffer;
	long n;

	if (argc != 4)
		return 2;
	directory = argv[1];
	files = atol(argv[2]);
	size = atol(argv[3]);
	buffer = calloc(1, size);
	for (n = 0; n < files; n++) {
		int fd;

		name(path, sizeof(path), n);
		fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
		if (fd < 0 || write(fd, buffer, size) != size)
			return 1;
		close(fd);
	}
	for (n = 0; n < 2; n++)
		if (pthread_create(&threads[n], NULL, work, NULL))
			return 1;
	for (n = 0; n < 2; n++)
		pthread_join(threads[n], NULL);
	printf("%ld\n", (long)total);
	return 0;
}
