// SPDX-License-Identifier: GPL-2.0-only
/*
 * Block requests, owned by the thread that queued their first bio.  A request
 * is issued by whoever flushes (often a kworker) and completed in softirq
 * context, so its owner is found through the bio: block_bio_queue runs in the
 * submitter's context.  A bio cut by block_split is issued under the new
 * bio's address.
 */
struct bio_owner {
	u32 tid;
	u32 tgid;
	u64 queue_ns;
	u64 bytes;
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

static __always_inline int own_bio(u64 bio)
{
	struct thread *t = current_thread();
	struct bio_owner owner = {};

	if (!t)
		return 0;
	owner.tid = t->tid;
	owner.tgid = t->tgid;
	owner.queue_ns = bpf_ktime_get_ns();
	owner.bytes = load32(bio + OFF_bio_bi_size);
	owners.update(&bio, &owner);
	return 0;
}

RAW_TRACEPOINT_PROBE(block_bio_queue)
{
	return own_bio(ctx->args[0]);
}

RAW_TRACEPOINT_PROBE(block_split)
{
	return own_bio(ctx->args[0]);
}

RAW_TRACEPOINT_PROBE(block_rq_issue)
{
	u64 rq = ctx->args[0], bio = load64(rq + OFF_request_bio);
	struct bio_owner *owner = owners.lookup(&bio);
	struct flight f = {};

	if (!owner)
		return 0;
	f.owner = *owner;
	f.issue_ns = bpf_ktime_get_ns();
	f.bytes = f.left = load32(rq + OFF_request___data_len);
	f.sector = load64(rq + OFF_request___sector);
	f.op = load32(rq + OFF_request_cmd_flags) & 0xff;
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
	e.error = (u8)ctx->args[1];
	e.sector = f->sector;
	e.bytes = f->bytes;
	e.queue_ns = f->owner.queue_ns;
	e.issue_ns = f->issue_ns;
	e.complete_ns = bpf_ktime_get_ns();
	flights.delete(&rq);
	if (events.ringbuf_output(&e, sizeof(e), BPF_RB_NO_WAKEUP))
		count_lost(LOST_RING);
	return 0;
}
