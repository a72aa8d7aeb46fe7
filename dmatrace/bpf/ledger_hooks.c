// SPDX-License-Identifier: GPL-2.0-only
/*
 * What hooked functions tell the ledger.  Without its tracepoints (no
 * WITH_LEDGER) only the thread's own sums are kept.
 */
static __always_inline void shmem_added(struct thread *t, u64 folio)
{
	u64 bytes = folio_bytes(folio);

	t->counters[COUNT_SHMEM_ALLOC] += bytes;
#ifdef WITH_LEDGER
	struct file_key key = {};
	struct file_pages *f;

	/* Before 6.7 the folio is not in its mapping yet. */
	if (!file_folio(folio, &key))
		return;
	f = ledger_of(&key, t);
	if (f) {
		f->shmem = 1;
		add_bytes(f, bytes);
		__sync_fetch_and_add(&f->added_self, bytes);
	}
#endif
}

static __always_inline void refaulted(struct thread *t, u64 folio)
{
	u64 bytes = folio_bytes(folio);

	t->counters[COUNT_REFAULT] += bytes;
#ifdef WITH_LEDGER
	struct file_key key = {};
	struct file_pages *f;

	if (!file_folio(folio, &key))
		return;
	f = ledger_of(&key, t);
	if (f)
		__sync_fetch_and_add(&f->refaulted, bytes);
#endif
}
