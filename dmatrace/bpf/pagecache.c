// SPDX-License-Identifier: GPL-2.0-only
/*
 * The page-cache ledger, per (device, inode).  These events come once per page
 * on file systems without large folios, so each is a look-up of the file and
 * one of the thread, additions, and no clock: how long bytes stay is summed
 * from the recorder's samples.  A folio is 1 << order pages.
 *
 * A file enters the ledger with the first folio that a traced thread adds;
 * from then on every addition and removal counts, whoever does it.
 *
 * Folios of hugetlb and shmem are not the page cache (session/memorydevs.py).
 */
BPF_HASH(memory_devs, u32, u32, MEMORY_DEVS_MAX);       /* enum dev_kind */

static __always_inline int is_of(u32 dev, u32 kind)
{
	u32 *found = memory_devs.lookup(&dev);

	return found && *found == kind;
}

TRACEPOINT_PROBE(filemap, mm_filemap_add_to_page_cache)
{
	struct file_key key = { .ino = args->i_ino, .dev = args->s_dev };
	u64 bytes = PAGE_BYTES << args->order, start;
	struct thread *t = current_thread();
	struct file_pages *f;

	if (args->order && is_of(args->s_dev, DEV_HUGETLB))
		return 0;
	f = ledger_of(&key, t);
	if (!f)
		return 0;
	add_bytes(f, bytes);
	if (!t)
		return 0;
	__sync_fetch_and_add(&f->added_self, bytes);
	t->counters[COUNT_CACHE_ADDED] += bytes;
	if (t->phase == PHASE_READAHEAD) {
		start = (u64)args->index * PAGE_BYTES;
		__sync_fetch_and_add(&f->readahead, bytes);
		t->counters[COUNT_READAHEAD] += bytes;
		extend_run(t, RUN_READAHEAD, &key, start, start + bytes);
	}
	return 0;
}

TRACEPOINT_PROBE(filemap, mm_filemap_delete_from_page_cache)
{
	struct file_key key = { .ino = args->i_ino, .dev = args->s_dev };
	u64 bytes = PAGE_BYTES << args->order, *n;
	struct thread *t = current_thread();
	struct file_pages *f = files.lookup(&key);
	u32 how = removal();

	if (args->order && is_of(args->s_dev, DEV_HUGETLB))
		return 0;
	/* shmem's come this way, too; of a tmpfs in another mount namespace the ledger may know. */
	if (t && !(f && f->shmem) && !is_of(args->s_dev, DEV_SHMEM))
		t->counters[COUNT_CACHE_REMOVED] += bytes;
	if (!f) {
		n = elsewhere.lookup(&how);
		if (n)
			__sync_fetch_and_add(n, bytes);
		return 0;
	}
	__sync_fetch_and_add(&f->removed, bytes);
	__sync_fetch_and_add(&f->by[how & (REMOVED_MAX - 1)], bytes);
	if (t) {
		__sync_fetch_and_add(&f->removed_self, bytes);
		__sync_fetch_and_add(&f->self_by[how & (REMOVED_MAX - 1)], bytes);
	}
	return 0;
}

/*
 * The functions of REMOVERS in hooks_ledger.py, in whichever task.  They nest
 * (evicting an inode truncates it): the outermost says what it is.
 */
static __always_inline int removing(u64 cookie)
{
	u32 tid = bpf_get_current_pid_tgid();
	u32 how = REMOVED_INVALIDATE + COOKIE_ENTRY(cookie) - ENTRY_REMOVE_INVALIDATE;

	if (!removers.lookup(&tid))
		removers.update(&tid, &how);
	return 0;
}

static __always_inline int has_removed(u64 cookie)
{
	u32 tid = bpf_get_current_pid_tgid(), *how = removers.lookup(&tid);

	if (how && *how == REMOVED_INVALIDATE + COOKIE_ENTRY(cookie) - ENTRY_REMOVE_INVALIDATE)
		removers.delete(&tid);
	return 0;
}

#ifdef WITH_FENTRY
KFUNC_PROBE(remover)
{
	return removing(attach_cookie(ctx));
}

KRETFUNC_PROBE(remover)
{
	return has_removed(attach_cookie(ctx));
}
#endif

#ifdef WITH_KPROBE
int kprobe_remover_entry(void *ctx)
{
	return removing(attach_cookie(ctx));
}

int kprobe_remover_exit(void *ctx)
{
	return has_removed(attach_cookie(ctx));
}
#endif
