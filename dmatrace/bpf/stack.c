// SPDX-License-Identifier: GPL-2.0-only
/*
 * The phase stack: every transition charges `now - last` to exactly one cell,
 * (thread, innermost phase, cpu | blocked | runnable), so a thread's cells sum
 * to its wall time whatever hooks a kernel lacks.
 *
 * A thread's state is written by the CPU that runs it, by the CPU that
 * switches it, and by its waker; the scheduler serialises the three.  An
 * interrupt may nest a hook inside another program on the same CPU: frames
 * then come and go in LIFO order, and charge() ignores a clock that an
 * interrupt has already advanced.
 */
BPF_HASH(threads, u32, struct thread, THREADS_MAX);
BPF_ARRAY(blank, struct thread, 1);       /* template: too big for the BPF stack */
BPF_RINGBUF_OUTPUT(events, RING_PAGES);
BPF_ARRAY(lost, u64, LOST_MAX);           /* by enum lost: refused records, threads and files */
BPF_ARRAY(pinned, u64, PINNED_MAX);       /* by enum pinned_slot */

/*
 * An index into the stack, masked where the verifier can see it.  clang makes one
 * unsigned comparison of "0 < depth" and "depth <= DEPTH_MAX" (that of bcc 0.37 in
 * Debian sid does), knows that a mask is then needless, and drops it; the verifier
 * does not follow that arithmetic ("unbounded memory access").  So clang is not
 * told where the number comes from.
 */
#define SLOT(n) ({ u32 slot = (n); asm volatile("" : "+r"(slot)); slot & (DEPTH_MAX - 1); })

static __always_inline struct thread *current_thread(void)
{
	u32 tid = bpf_get_current_pid_tgid();

	return threads.lookup(&tid);
}

static __always_inline void count_lost(enum lost what)
{
	int index = what;
	u64 *n = lost.lookup(&index);

	if (n)
		__sync_fetch_and_add(n, 1);
}

static __always_inline void charge(struct thread *t, u64 now)
{
	s64 delta = now - t->last;

	if (delta > 0) {
		struct cell *c = &t->cells[t->phase & (PHASE_MAX - 1)];

		if (t->mode == MODE_CPU)
			c->ns[MODE_CPU] += delta;
		else if (t->mode == MODE_BLOCKED)
			c->ns[MODE_BLOCKED] += delta;
		else
			c->ns[MODE_RUNNABLE] += delta;
		t->last = now;
	}
}

static __always_inline void set_phase(struct thread *t, u32 phase)
{
	if (t->phase != phase) {
		t->phase = phase;
		t->cells[phase & (PHASE_MAX - 1)].count += 1;
	}
}

static u64 (*current_task_btf)(void) = (void *)158;      /* bpf_get_current_task_btf */
static u64 (*task_registers)(u64 task) = (void *)175;    /* bpf_task_pt_regs */

/*
 * The current thread ran when it was first followed, and nobody could say
 * where.  Now it is in the kernel, and did not come in by a system call that
 * we saw: so it was in one already, or what it is in is no system call but an
 * exception of user space (the registers it came in with say which).
 */
static __always_inline void settle(struct thread *t)
{
	s32 number = -1;

	bpf_probe_read_kernel(&number, sizeof(number),
			      (void *)(task_registers(current_task_btf()) + OFF_SYSCALL_NUMBER));
	t->late = LATE_FRAMES;
	if (number < 0)
		return;
	t->stack[0].hook = HOOK_SYSCALL;
	t->stack[0].phase = PHASE_SYSCALL;
	t->stack[0].start = t->last;
	t->depth = 1;
	t->phase = PHASE_SYSCALL;
	t->call = number;
}

static __always_inline struct frame *enter(struct thread *t, u32 hook, u32 phase)
{
	u64 now = bpf_ktime_get_ns();
	struct frame *f;
	u32 depth;

	if (t->late == LATE_ALL)
		settle(t);
	if (phase == PHASE_OUTER)
		phase = t->phase;
	charge(t, now);
	t->mode = MODE_CPU;
	t->hits[hook & (HOOK_MAX - 1)] += 1;
	depth = t->depth;
	if (depth >= DEPTH_MAX) {
		t->over += 1;
		t->counters[COUNT_OVERFLOWS] += 1;
		return 0;
	}
	f = &t->stack[SLOT(depth)];
	f->hook = hook;
	f->phase = phase;
	f->start = now;
	f->arg = 0;
	f->file = 0;
	t->depth = depth + 1;
	set_phase(t, phase);
	return f;
}

static __always_inline void unwind(struct thread *t, u32 depth)
{
	t->depth = depth;
	/* Not set_phase(): going back to an outer phase is no new entry. */
	t->phase = depth ? t->stack[SLOT(depth - 1)].phase : PHASE_USER;
}

static __always_inline void emit_interval(struct thread *t, struct frame *f, u64 end)
{
	struct interval_event e = {
		.type = EV_INTERVAL, .phase = f->phase, .tid = t->tid, .tgid = t->tgid,
		.hook = f->hook, .start = f->start, .end = end,
	};

	if (events.ringbuf_output(&e, sizeof(e), BPF_RB_NO_WAKEUP))
		count_lost(LOST_RING);
}

/*
 * The end of a call whose begin was not seen.  Where the thread was in it when
 * it was first followed, the time since its last transition was spent there.
 */
static __always_inline struct frame *orphan(struct thread *t, u32 phase, u64 now)
{
	u32 outer = t->phase;

	t->counters[COUNT_ORPHAN_EXITS] += 1;
	if (t->late && phase != PHASE_OUTER)
		t->phase = phase;
	charge(t, now);
	t->phase = outer;
	return 0;
}

/* The frame that ends, still intact above the new depth, or NULL. */
static __always_inline struct frame *leave(struct thread *t, u32 hook, u32 phase, u32 interval)
{
	u64 now = bpf_ktime_get_ns();
	u32 depth = t->depth, i;
	struct frame *f;

	if (t->late == LATE_ALL) {
		settle(t);
		depth = t->depth;
	}
	if (t->over) {
		charge(t, now);
		t->over -= 1;
		return 0;
	}
	if (depth == 0 || depth > DEPTH_MAX)
		return orphan(t, phase, now);
	f = &t->stack[SLOT(depth - 1)];
	if (f->hook != hook) {
		/* An inner exit was lost, or this entry was never seen. */
		for (i = 2; i <= DEPTH_MAX; i++) {
			if (i > depth)
				return orphan(t, phase, now);
			f = &t->stack[SLOT(depth - i)];
			if (f->hook == hook)
				break;
		}
		if (i > DEPTH_MAX)
			return orphan(t, phase, now);
		t->counters[COUNT_LOST_EXITS] += i - 1;
		depth -= i - 1;
	}
	charge(t, now);
	unwind(t, depth - 1);
	if (interval)
		emit_interval(t, f, now);
	return f;
}

static __always_inline void snapshot(struct thread *t, u32 kind, u32 load_id, u32 window, u64 now)
{
	t->kind = kind;
	t->load_id = load_id;
	t->window = window;
	t->at = now;
	if (events.ringbuf_output(t, offsetof(struct thread, stack), BPF_RB_NO_WAKEUP))
		count_lost(LOST_RING);
}

/* No array of slots: clang 14 of Debian 12 makes read-only data of one, which nobody loads. */
static __always_inline u64 *pinned_slot(int slot)
{
	return pinned.lookup(&slot);
}

/*
 * Bytes pinned over time need no loop: each page adds -t when it is pinned and
 * t when it is released, so that the sum, and now for each that still is, is
 * how long all were, in pages x us (modulo 2^64, as are the terms).
 */
static __always_inline void pinned_changes(s64 bytes)
{
	u64 *now = pinned_slot(PINNED_NOW), *peak = pinned_slot(PINNED_PEAK);
	u64 *moment = pinned_slot(PINNED_MOMENT);
	u64 *since = pinned_slot(PINNED_SINCE), *ns = pinned_slot(PINNED_NS);
	u64 t = bpf_ktime_get_ns();

	if (!now || !peak || !moment || !since || !ns)
		return;
	__sync_fetch_and_add(now, bytes);
	__sync_fetch_and_add(moment, -(bytes >> 12) * (s64)(t / 1000));
	if ((s64)*now > (s64)*peak)
		*peak = *now;
	/* Two processors may cross zero at once; then one short time is missed. */
	if ((s64)*now > 0) {
		if (!*since)
			*since = t;
	} else if (*since) {
		*ns += t - *since;
		*since = 0;
	}
}

static __always_inline void pin(struct thread *t, u64 bytes)
{
	if (t)
		t->counters[COUNT_PIN] += bytes;
	pinned_changes(bytes);
}

static __always_inline void unpin(u64 bytes)
{
	pinned_changes(-bytes);
}
