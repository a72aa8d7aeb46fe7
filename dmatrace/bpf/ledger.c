// SPDX-License-Identifier: GPL-2.0-only
/*
 * The page-cache ledger's maps, per (device, inode): pagecache.c counts the
 * folios, here is who removes them, and shmem, whose folios take another way
 * in (there is no tracepoint) and the same way out.
 */
#define WITH_LEDGER 1

BPF_HASH(files, struct file_key, struct file_pages, FILES_MAX);
BPF_ARRAY(blank_file, struct file_pages, 1);      /* template: too big for the BPF stack */
/* Bytes that other files lost, those the ledger does not have, by enum removal. */
BPF_ARRAY(elsewhere, u64, REMOVED_MAX);
/* Tasks inside a function that removes folios, and which kind; LRU: an exit may be lost. */
BPF_TABLE("lru_hash", u32, u32, removers, REMOVERS_MAX);

#define PF_MEMALLOC 0x00000800  /* include/linux/sched.h: in reclaim, of whatever kind */
#define PF_KSWAPD 0x00020000

/* Reclaim first: it may be what evicts an inode. */
static __always_inline u32 removal(void)
{
	u32 flags = load32(bpf_get_current_task() + OFF_task_struct_flags);
	u32 tid = bpf_get_current_pid_tgid(), *how;

	if (flags & PF_KSWAPD)
		return REMOVED_KSWAPD;
	if (flags & PF_MEMALLOC)
		return REMOVED_RECLAIM;
	how = removers.lookup(&tid);
	return how ? *how : REMOVED_OTHER;
}

/* The file's entry, made if a traced thread is the one who asks. */
static __always_inline struct file_pages *ledger_of(struct file_key *key, struct thread *t)
{
	struct file_pages *f = files.lookup(key), *empty;
	int zero = 0;

	if (f || !t)
		return f;
	empty = blank_file.lookup(&zero);
	if (!empty)
		return 0;
	/* insert(): as in count_io(). */
	files.insert(key, empty);
	f = files.lookup(key);
	if (!f)
		count_lost(LOST_ROOM);
	return f;
}

static __always_inline void add_bytes(struct file_pages *f, u64 bytes)
{
	u64 now;

	__sync_fetch_and_add(&f->added, bytes);
	now = f->added - f->removed;
	if ((s64)now > (s64)f->peak)
		f->peak = now;
}

static __always_inline int file_folio(u64 folio, struct file_key *key)
{
	u64 mapping = load64(folio + OFF_folio_mapping);

	if (!mapping || mapping & 3)  /* anonymous or movable: FOLIO_MAPPING_FLAGS */
		return 0;
	*key = key_of_mapping(mapping);
	return 1;
}
