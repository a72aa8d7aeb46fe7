// SPDX-License-Identifier: GPL-2.0-only
/*
 * The page-cache ledger, per (device, inode).  One map operation per folio
 * and no time stamp: these events come once per page on file systems without
 * large folios.  A folio is 1 << order pages.  PER_THREAD_CACHE, where several
 * processes are traced at once, adds another: who added and removed it.
 *
 * A file enters the ledger with the first folio that a traced thread adds;
 * from then on every addition and removal counts, whoever does it.
 */
#ifdef PER_THREAD_CACHE
#define COUNT_CACHE(counter, bytes)                            \
	do {                                                   \
		struct thread *adder = current_thread();       \
		if (adder)                                     \
			adder->counters[counter] += (bytes);   \
	} while (0)
#else
#define COUNT_CACHE(counter, bytes)
#endif

BPF_HASH(files, struct file_key, struct file_pages, FILES_MAX);

TRACEPOINT_PROBE(filemap, mm_filemap_add_to_page_cache)
{
	struct file_key key = { .ino = args->i_ino, .dev = args->s_dev };
	u64 bytes = PAGE_BYTES << args->order, now;
	struct file_pages *f = files.lookup(&key);

	if (!f) {
		struct file_pages empty = {};

		if (!current_thread())
			return 0;
		files.update(&key, &empty);
		f = files.lookup(&key);
		if (!f) {
			count_lost(LOST_ROOM);
			return 0;
		}
	}
	COUNT_CACHE(COUNT_CACHE_ADDED, bytes);
	__sync_fetch_and_add(&f->added, bytes);
	now = f->added - f->removed;
	if ((s64)now > (s64)f->peak)
		f->peak = now;
	return 0;
}

TRACEPOINT_PROBE(filemap, mm_filemap_delete_from_page_cache)
{
	struct file_key key = { .ino = args->i_ino, .dev = args->s_dev };
	u64 bytes = PAGE_BYTES << args->order;
	struct file_pages *f = files.lookup(&key);

	if (!f)
		return 0;
	COUNT_CACHE(COUNT_CACHE_REMOVED, bytes);
	__sync_fetch_and_add(&f->removed, bytes);
	if (current_thread())
		__sync_fetch_and_add(&f->removed_self, bytes);
	return 0;
}
