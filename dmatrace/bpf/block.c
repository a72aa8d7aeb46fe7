// SPDX-License-Identifier: GPL-2.0-only
/*
 * Block requests, owned by the thread that queued their first bio.  A request
 * is issued by whoever flushes (often a kworker) and completed in softirq
 * context, so its owner is found through the bio: block_bio_queue runs in the
 * submitter's context.  A bio cut by block_split is issued under the new
 * bio's address.
 *
 * Requests exist on the lowest device of a stack that the submitter itself
 * comes to: device mapper and md pass bios on and issue none, so their bytes
 * are counted once, below them.  What such a driver, or a loop device's
 * worker, submits from a thread of its own has no owner and is not counted
 * again; COUNT_BIO_READ, the bios at the top, tells how much has no request.
 *
 * What a bio reads is decided where it is queued, by its flags, the page it
 * reads into and the calls its submitter is in.
 */
struct bio_owner {
	u32 tid;
	u32 tgid;
	u64 queue_ns;
	u64 bytes;
	u64 ino;
	u32 file_dev;
	u32 kind;
	u32 phase;
	u32 dev;
	u32 once;               /* one of the two programs has heard of it */
};

struct flight {
	struct bio_owner owner;
	u64 issue_ns;
	u64 bytes;
	u64 left;
	u64 sector;
	u32 op;
};

/* LRU: a bio merged into another's request is never issued by its own address. */
BPF_TABLE("lru_hash", u64, struct bio_owner, owners, REQUESTS_MAX);
BPF_TABLE("lru_hash", u64, struct flight, flights, REQUESTS_MAX);

/* The inode whose page cache a bio's first page is of, or 0: anonymous, slab. */
static __always_inline u64 inode_of_bio(u64 bio)
{
	u64 vec = load64(bio + OFF_bio_bi_io_vec), page;

	if (!vec)
		return 0;
	/* struct bio_vec is a pointer and two ints. */
	vec += 16ULL * load32(bio + OFF_bio_bi_idx);
	page = load64(vec + OFF_bio_vec_bv_page);
	if (!page)
		return 0;
	return inode_of_mapping(load64(folio_of(page) + OFF_folio_mapping));
}

static __always_inline int reads_files(u32 phase)
{
	return phase == PHASE_DIO || phase == PHASE_READAHEAD || phase == PHASE_PAGE_CACHE ||
	       phase == PHASE_COPY || phase == PHASE_FAULT;
}

static __always_inline void classify(struct thread *t, u64 bio, struct bio_owner *o)
{
	u64 inode = inode_of_bio(bio), file = 0, read = 0, named = 0;
	u32 flags = load32(bio + OFF_bio_bi_opf), phase = PHASE_SYSCALL, i;
	struct file_key key = {};

	/* The innermost call that reads, and the file of it or of one around it. */
	for (i = 1; i <= DEPTH_MAX; i++) {
		struct frame *f = &t->stack[SLOT(t->depth - i)];

		if (i > t->depth || i > DEPTH_MAX)
			break;
		if (phase == PHASE_SYSCALL && reads_files(f->phase))
			phase = f->phase;
		if (phase != PHASE_SYSCALL && f->file) {
			file = f->file;
			break;
		}
	}
	o->phase = phase;
	read = file ? inode_of(file) : 0;
	if (flags & REQ_SWAP) {
		o->kind = KIND_SWAP;
	} else if (flags & REQ_META) {
		o->kind = KIND_METADATA;
	} else if (inode && inode != read && S_ISBLK(load32(inode + OFF_inode_i_mode))) {
		/* ext4 reads extent trees without the flag. */
		o->kind = KIND_METADATA;
		named = inode;
	} else if (phase == PHASE_DIO) {
		/* Its pages are the buffer's, whatever they belong to. */
		o->kind = KIND_DIRECT;
		named = read;
	} else if (phase != PHASE_SYSCALL || flags & REQ_RAHEAD) {
		o->kind = flags & REQ_RAHEAD ? KIND_READAHEAD : KIND_PAGE_CACHE;
		/* A file in memory has no disk: those pages are a buffer's. */
		if (inode && !S_ISBLK(load32(inode + OFF_inode_i_mode)) &&
		    !load64(load64(inode + OFF_inode_i_sb) + OFF_super_block_s_bdev))
			o->kind = KIND_UNKNOWN;
		else
			named = inode;
	}
	if (named) {
		name_inode(named, &key);
		o->ino = key.ino;
		o->file_dev = key.dev;
	}
}

/*
 * Where the kernel preempts, a program that was is not entered on that CPU
 * until it goes on, and each of these is attached twice (taps.py).  Whoever
 * hears of a bio first owns it; the other one finds that, and lets it be.
 */
static __always_inline int heard(u64 bio)
{
#ifdef TWICE
	struct bio_owner *o = owners.lookup(&bio);

	if (o && o->once) {
		o->once = 0;
		return 1;
	}
#endif
	return 0;
}

/* Bios are freed unseen: what was at an address of another's new one is gone. */
static __always_inline int own_bio(struct thread *t, u64 bio, u64 queued)
{
	struct bio_owner owner = {};

	if (!t) {
		owners.delete(&bio);
		return 0;
	}
	owner.once = 1;
	owner.tid = t->tid;
	owner.tgid = t->tgid;
	owner.queue_ns = queued;
	owner.bytes = load32(bio + OFF_bio_bi_size);
	classify(t, bio, &owner);
	owners.update(&bio, &owner);
	return 0;
}

RAW_TRACEPOINT_PROBE(block_bio_queue)
{
	u64 bio = ctx->args[0];
	struct thread *t = current_thread();

	if (t && heard(bio))
		return 0;
	/* While a driver's submit_bio runs, what it queues goes on this list. */
	if (t && !(load32(bio + OFF_bio_bi_opf) & 0xff) &&
	    !load64(bpf_get_current_task() + OFF_task_struct_bio_list))
		t->counters[COUNT_BIO_READ] += load32(bio + OFF_bio_bi_size);
	return own_bio(t, bio, bpf_ktime_get_ns());
}

RAW_TRACEPOINT_PROBE(block_split)
{
	u64 bio = ctx->args[0], rest = load64(bio + OFF_bio_bi_private);
	struct bio_owner *whole = owners.lookup(&rest);
	struct thread *t = current_thread();

	if (t && heard(bio))
		return 0;
	/* bio_chain() has made the rest the parent of what is cut off; both were queued as one. */
	return own_bio(t, bio, whole ? whole->queue_ns : bpf_ktime_get_ns());
}

RAW_TRACEPOINT_PROBE(block_rq_issue)
{
	u64 rq = ctx->args[0], bio = load64(rq + OFF_request_bio);
	struct bio_owner *owner = owners.lookup(&bio);
	struct flight f = {};

	if (!owner)
		return 0;
#ifdef TWICE
	/* It was queued, whoever heard of that: the next one at this address is another. */
	owner->once = 0;
	struct flight *other = flights.lookup(&rq);

	if (other && other->owner.queue_ns == owner->queue_ns &&
	    other->sector == load64(rq + OFF_request___sector))
		return 0;
#endif
	f.owner = *owner;
	f.issue_ns = bpf_ktime_get_ns();
	f.bytes = f.left = load32(rq + OFF_request___data_len);
	f.sector = load64(rq + OFF_request___sector);
	f.op = load32(rq + OFF_request_cmd_flags) & 0xff;
	f.owner.dev = load32(load64(bio + OFF_bio_bi_bdev) + OFF_block_device_bd_dev);
	flights.update(&rq, &f);
	return 0;
}

RAW_TRACEPOINT_PROBE(block_rq_complete)
{
	u64 rq = ctx->args[0], done = (u32)ctx->args[2];
	struct flight *f = flights.lookup(&rq);
	struct request_event e = {};

	if (!f)
		return 0;
	if (done < f->left) {
		f->left -= done;
		return 0;
	}
	e.type = EV_REQUEST;
	e.op = f->op;
	e.tid = f->owner.tid;
	e.tgid = f->owner.tgid;
	e.dev = f->owner.dev;
	e.error = (u8)ctx->args[1];
	e.sector = f->sector;
	e.bytes = f->bytes;
	e.queue_ns = f->owner.queue_ns;
	e.issue_ns = f->issue_ns;
	e.complete_ns = bpf_ktime_get_ns();
	e.ino = f->owner.ino;
	e.file_dev = f->owner.file_dev;
	e.kind = f->owner.kind;
	e.phase = f->owner.phase;
	flights.delete(&rq);
	if (events.ringbuf_output(&e, sizeof(e), BPF_RB_NO_WAKEUP))
		count_lost(LOST_RING);
	return 0;
}
