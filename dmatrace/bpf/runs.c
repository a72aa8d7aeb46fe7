// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which bytes of which file a thread brought in by readahead, and which it
 * then read: as runs, so that a sequential load makes a handful of records
 * however many pages it has, and an analysis can tell page by page what
 * readahead was for nothing.
 *
 * A run grows while the next bytes follow the last ones, for at most RUN_NS,
 * which bounds what is not known of the order of two runs.  The times are the
 * thread's last transition: no clock is read for them.
 */
#define RUN_NS 100000000ULL

static __always_inline void end_run(struct run *r)
{
	if (!r->end)
		return;
	if (events.ringbuf_output(r, sizeof(*r), BPF_RB_NO_WAKEUP))
		count_lost(LOST_RING);
	r->end = 0;
}

static __always_inline void extend_run(struct thread *t, u32 kind, struct file_key *key,
				       u64 start, u64 end)
{
	struct run *r = &t->runs[kind];

	if (r->end != start || r->ino != key->ino || r->dev != key->dev || !r->end ||
	    t->last - r->since >= RUN_NS) {
		end_run(r);
		r->type = EV_RUN;
		r->kind = kind;
		r->tid = t->tid;
		r->tgid = t->tgid;
		r->ino = key->ino;
		r->dev = key->dev;
		r->start = start;
		r->since = t->last;
	}
	r->end = end;
	r->until = t->last;
}

/* What is under way belongs to what came before this moment. */
static __always_inline void end_runs(struct thread *t)
{
	end_run(&t->runs[RUN_READAHEAD]);
	end_run(&t->runs[RUN_READ]);
	end_run(&t->runs[RUN_MAPPED]);
}

static __always_inline void read_begins(struct thread *t, u64 file, u64 position)
{
	t->reading = key_of_file(file);
	t->reading_at = position;
}

static __always_inline void read_ends(struct thread *t, s64 bytes)
{
	struct file_key key = t->reading;

	if (bytes > 0)
		extend_run(t, RUN_READ, &key, t->reading_at, t->reading_at + bytes);
}

static __always_inline u64 file_of_fault(u64 vmf)
{
	return load64(load64(vmf + OFF_vm_fault_vma) + OFF_vm_area_struct_vm_file);
}

static __always_inline struct file_key key_of_fault(u64 vmf)
{
	return key_of_file(file_of_fault(vmf));
}

/* The page that a fault is for is used, after the readahead that the fault begins. */
static __always_inline void fault_begins(struct thread *t, u64 vmf)
{
	t->faulting = key_of_fault(vmf);
	t->faulting_at = load64(vmf + OFF_vm_fault_pgoff) * PAGE_BYTES;
}

static __always_inline void fault_ends(struct thread *t)
{
	struct file_key key = t->faulting;

	extend_run(t, RUN_READ, &key, t->faulting_at, t->faulting_at + PAGE_BYTES);
}

/* Of those that are mapped around it nobody sees whether they are used. */
static __always_inline void pages_mapped(struct thread *t, u64 vmf, u64 first, u64 last)
{
	struct file_key key = key_of_fault(vmf);
	u64 start = load64(vmf + OFF_vm_fault_pgoff) * PAGE_BYTES;

	extend_run(t, RUN_READ, &key, start, start + PAGE_BYTES);
	extend_run(t, RUN_MAPPED, &key, first * PAGE_BYTES,
		   (last + 1) * PAGE_BYTES);
}
