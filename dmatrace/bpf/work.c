// SPDX-License-Identifier: GPL-2.0-only
/*
 * Work that another thread does for a traced one: a work item of the loader
 * module's gather path in a kworker, a request of io_uring in an io-wq worker.
 * The worker is a traced thread from the item's begin to its end and at no
 * other time: before and after it works for others, or waits.
 *
 * Who it works for is what the item or the worker says, never a guess.
 */
static __always_inline u32 owner_of_work(u32 handler, u64 work)
{
	u64 worker, wq;

	switch (handler) {
	case ENTRY_GATHER_WORK:         /* native/loader.h: struct dmatrace_loader_work */
		return load32(work + 4);
	case ENTRY_IO_WQ_WORK:          /* the io-wq belongs to the task that submits */
		worker = load64(bpf_get_current_task() + OFF_task_struct_worker_private);
		wq = load64(worker + OFF_io_worker_wq);
		if (OFF_io_wqe_wq)      /* a struct io_wqe, of kernels that have it */
			wq = load64(wq + OFF_io_wqe_wq);
		return task_pid(load64(wq + OFF_io_wq_task));
	}
	return 0;
}

static __always_inline int begin_work(u64 cookie, u64 work)
{
	u32 tid = bpf_get_current_pid_tgid(), zero = 0;
	u32 owner = owner_of_work(COOKIE_ENTRY(cookie), work);
	u32 hook = COOKIE_HOOK(cookie), phase = COOKIE_PHASE(cookie);
	struct thread *o = threads.lookup(&owner), *t, *empty;
	u64 now = bpf_ktime_get_ns();
	u32 load_id = 0, window = 0;

	if (!o || owner == tid)
		return 0;
	/* Between its marks a loader names the load. */
	if (o->kind == SNAP_BEGIN) {
		load_id = o->load_id;
		window = o->window;
	}
	t = threads.lookup(&tid);
	if (t)
		o->counters[COUNT_LOST_EXITS] += 1;
	empty = blank.lookup(&zero);
	if (!empty)
		return 0;
	threads.update(&tid, empty);
	t = threads.lookup(&tid);
	if (!t) {
		count_lost(LOST_ROOM);
		return 0;
	}
	t->type = EV_SNAPSHOT;
	t->tid = tid;
	t->tgid = o->tgid;
	t->owner = owner;
	bpf_get_current_comm(t->comm, sizeof(t->comm));
	t->last = now;
	t->stack[0].hook = hook;
	t->stack[0].phase = phase;
	t->stack[0].start = now;
	t->depth = 1;
	snapshot(t, SNAP_WORK_BEGIN, load_id, window, now);
	t->hits[hook & (HOOK_MAX - 1)] += 1;
	set_phase(t, phase);
	return 0;
}

static __always_inline int end_work(void)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct thread *t = threads.lookup(&tid);
	u64 now;

	if (!t || !t->owner)
		return 0;
	now = bpf_ktime_get_ns();
	charge(t, now);
	if (t->depth > 1)
		t->counters[COUNT_LOST_EXITS] += t->depth - 1;
	end_runs(t);
	snapshot(t, SNAP_WORK_END, t->load_id, t->window, now);
	threads.delete(&tid);
	return 0;
}

#ifdef WITH_FENTRY
KFUNC_PROBE(work)
{
	u64 work = 0;

	func_arg(ctx, 0, &work);
	return begin_work(attach_cookie(ctx), work);
}

KRETFUNC_PROBE(work)
{
	return end_work();
}
#endif

#ifdef WITH_KPROBE
int kprobe_work_entry(void *ctx)
{
	return begin_work(attach_cookie(ctx), REGISTER(ctx, OFF_ARG0));
}

int kprobe_work_exit(void *ctx)
{
	return end_work();
}
#endif
