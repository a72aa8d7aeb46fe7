// SPDX-License-Identifier: GPL-2.0-only
/*
 * When a traced thread was off its CPU, as intervals: what bounded a load at
 * each moment cannot be seen from sums.  One record per switch back, of spans
 * that last; shorter ones are in the cells alone, and a reader can tell how
 * much that is.
 */
#define WAIT_MIN_NS 10000ULL

static __always_inline void off_cpu(struct thread *t, u64 now)
{
	t->off = now;
	t->woken = 0;
}

/* Before its mode becomes MODE_CPU. */
static __always_inline void on_cpu(struct thread *t, u64 now)
{
	u64 start = t->off;
	struct wait_event e = {
		.type = EV_WAIT, .phase = t->phase, .tid = t->tid, .tgid = t->tgid,
		.start = start, .woken = t->woken, .end = now,
	};

	t->off = 0;
	if (!start || now - start < WAIT_MIN_NS)
		return;
	if (!e.woken)           /* preempted, or woken unseen */
		e.woken = t->mode == MODE_BLOCKED ? now : start;
	if (events.ringbuf_output(&e, sizeof(e), BPF_RB_NO_WAKEUP))
		count_lost(LOST_RING);
}
