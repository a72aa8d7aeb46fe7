// SPDX-License-Identifier: GPL-2.0-only
/*
 * The outermost transitions: system calls, the scheduler, a thread's birth
 * and end.  Raw tracepoints, because their cost is paid by every task of the
 * machine: one map lookup for a thread that is not ours.  Where the kernel
 * preempts itself they are perf's, as far as perf says enough, because
 * these run with preemption off (preemption.py).
 */

/*
 * Threads that exec and are not their process's first, by struct task_struct: they get the
 * first one's number long before sched_process_exec tells of it (de_thread() in fs/exec.c;
 * then the program is read), and are known by their own until then.
 */
BPF_HASH(execs_of, u64, u32, FOLLOWED_MAX);
BPF_ARRAY(execs_now, u64, 1);             /* how many: nearly always none */

static __always_inline void exec_begins(struct thread *t, u64 number)
{
	u64 task = bpf_get_current_task(), *now;
	int zero = 0;

	if ((number != NR_EXECVE && number != NR_EXECVEAT) || t->tid == t->tgid)
		return;
	now = execs_now.lookup(&zero);
	if (now && !execs_of.update(&task, &t->tid))
		__sync_fetch_and_add(now, 1);
}

/* The current thread has its number, or did not get it, or is no more. */
static __always_inline void exec_ends(void)
{
	u64 task = bpf_get_current_task(), *now;
	int zero = 0;

	now = execs_now.lookup(&zero);
	if (!now || !*now || !execs_of.lookup(&task))
		return;
	execs_of.delete(&task);
	__sync_fetch_and_add(now, -1ULL);
}

static __always_inline struct thread *renamed(u64 task)
{
	u64 *now;
	u32 *before;
	int zero = 0;

	now = execs_now.lookup(&zero);
	if (!now || !*now)
		return 0;
	before = execs_of.lookup(&task);
	return before ? threads.lookup(before) : 0;
}

static __always_inline struct thread *thread_of(u64 task)
{
	u32 tid = task_pid(task);
	struct thread *t = threads.lookup(&tid);

	return t ? t : renamed(task);
}

static __always_inline void call_enters(struct thread *t, u64 regs, u64 number)
{
	u64 now = bpf_ktime_get_ns(), kind;
	u32 depth;

	charge(t, now);
	t->mode = MODE_CPU;
	depth = t->depth;
	if (depth && !t->late)
		t->counters[COUNT_LOST_EXITS] += depth;
	t->late = LATE_NOT;
	t->over = 0;
	t->way.path = WAY_NONE;
	t->stack[0].hook = HOOK_SYSCALL;
	t->stack[0].phase = PHASE_SYSCALL;
	t->stack[0].start = now;
	t->stack[0].file = 0;
	t->depth = 1;
	t->hits[HOOK_SYSCALL] += 1;
	set_phase(t, PHASE_SYSCALL);

	call_begins(t, number, regs);
	exec_begins(t, number);

	/* A loader marks its windows with an option prctl(2) does not know. */
	if (number != NR_PRCTL)
		return;
	if (load64(regs + OFF_ARG0) != MARKER)
		return;
	kind = load64(regs + OFF_ARG1);
	bpf_get_current_comm(t->comm, sizeof(t->comm));
	end_runs(t);
	snapshot(t, kind, load64(regs + OFF_ARG2), load64(regs + OFF_ARG3), now);
}

static __always_inline void call_leaves(struct thread *t, u64 regs, s64 returned)
{
	if (t->late == LATE_ALL)
		settle(t);
	charge(t, bpf_ktime_get_ns());
	t->mode = MODE_CPU;
	/* Of calls that were under way when we attached no exit is to be expected. */
	if (t->depth > 1 && !t->late)
		t->counters[COUNT_LOST_EXITS] += t->depth - 1;
	else if (t->late)
		late_read(t, regs, returned);
	t->late = LATE_NOT;
	t->over = 0;
	unwind(t, 0);
	exec_ends();
	call_ends(t, regs, returned);
}

/* (preempt, prev, next, prev_state); prev_state since commit 9c2136be0878
 * "sched/tracing: Append prev_state to tp args instead" (in v5.18). */
RAW_TRACEPOINT_PROBE(sched_switch)
{
	u64 now = bpf_ktime_get_ns();
	struct thread *t;

	t = thread_of(ctx->args[1]);
	if (t) {
		if (t->late == LATE_ALL)
			settle(t);
		charge(t, now);
		t->mode = ctx->args[0] || !(u32)ctx->args[3] ? MODE_RUNNABLE : MODE_BLOCKED;
		off_cpu(t, now);
	}
	t = thread_of(ctx->args[2]);
	if (t) {
		/* First followed as one that runs, it was waiting for this CPU. */
		if (t->late == LATE_ALL && t->mode == MODE_CPU)
			t->mode = MODE_RUNNABLE;
		charge(t, now);
		on_cpu(t, now);
		t->mode = MODE_CPU;
		if (t->woken && now > t->woken)
			t->counters[COUNT_WAKE_NS] += now - t->woken;
		t->woken = 0;
	}
	return 0;
}

static __always_inline int woken(u64 task)
{
	struct thread *t = thread_of(task);

	if (t && t->mode == MODE_BLOCKED) {
		t->woken = bpf_ktime_get_ns();
		charge(t, t->woken);
		t->mode = MODE_RUNNABLE;
	}
	return 0;
}

RAW_TRACEPOINT_PROBE(sched_wakeup)
{
	return woken(ctx->args[0]);
}

/* (parent, child): a new thread begins inside clone(), waiting for a CPU. */
RAW_TRACEPOINT_PROBE(sched_process_fork)
{
	u32 parent = task_pid(ctx->args[0]), tid = task_pid(ctx->args[1]);
	struct thread *p = threads.lookup(&parent), *t, *empty;
	u32 tgid = load32(ctx->args[1] + OFF_task_struct_tgid);
	u64 now = bpf_ktime_get_ns();
	int zero = 0;

	if (!p || (!FOLLOW_FORK && p->tgid != tgid))
		return 0;
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
	t->tgid = tgid;
	bpf_get_current_comm(t->comm, sizeof(t->comm));
	t->last = t->off = now;
	t->mode = MODE_RUNNABLE;
	t->stack[0].hook = HOOK_SYSCALL;
	t->stack[0].phase = PHASE_SYSCALL;
	t->depth = 1;
	t->phase = PHASE_SYSCALL;
	t->call = NO_CALL;
	if (p->tgid != tgid)
		fork_regions(p->tgid, tgid);
	snapshot(t, SNAP_FORK, 0, 0, now);
	return 0;
}

static __always_inline void note_schedstat(struct thread *t)
{
	u64 task = bpf_get_current_task();

	/* What schedstat would say: the scheduler's clock beside ours, and nobody can read it later. */
	t->counters[COUNT_SCHED_RUN_NS] = load64(task + OFF_task_struct_sched_run);
	t->counters[COUNT_SCHED_WAIT_NS] = load64(task + OFF_task_struct_sched_wait);
}

/*
 * A thread that is not the process's first takes the first one's number, whose own
 * thread has ended by then (de_thread() in fs/exec.c).  It goes on under its new number.
 */
static __always_inline int execs(u32 before)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct thread *t = threads.lookup(&before), *n;
	u64 now = bpf_ktime_get_ns();

	if (!t)
		return 0;
	exec_ends();
	if (before != tid) {
		charge(t, now);
		note_schedstat(t);
		threads.update(&tid, t);
		n = threads.lookup(&tid);
		if (n) {
			n->tid = tid;
			snapshot(n, SNAP_FORK, 0, 0, now);
		} else {
			count_lost(LOST_ROOM);
		}
		snapshot(t, SNAP_EXIT, 0, 0, now);
		threads.delete(&before);
		t = n;
		if (!t)
			return 0;
	}
	bpf_get_current_comm(t->comm, sizeof(t->comm));
	regions.delete(&t->tgid);
	return 0;
}

static __always_inline int exits(void)
{
	struct thread *t = current_thread();
	u64 now;
	u32 tid;

	if (!t)
		t = renamed(bpf_get_current_task());
	if (!t)
		return 0;
	tid = t->tid;
	now = bpf_ktime_get_ns();
	exec_ends();
	charge(t, now);
	bpf_get_current_comm(t->comm, sizeof(t->comm));
	end_runs(t);
	note_schedstat(t);
	snapshot(t, SNAP_EXIT, 0, 0, now);
	if (tid == t->tgid)
		regions.delete(&tid);
	threads.delete(&tid);
	return 0;
}

#ifdef PREEMPTS
TRACEPOINT_PROBE(raw_syscalls, sys_enter)
{
	struct thread *t = current_thread();

	if (t)
		call_enters(t, task_registers(current_task_btf()), args->id);
	return 0;
}

TRACEPOINT_PROBE(raw_syscalls, sys_exit)
{
	struct thread *t = current_thread();

	if (t)
		call_leaves(t, task_registers(current_task_btf()), args->ret);
	return 0;
}

TRACEPOINT_PROBE(sched, sched_process_exec)
{
	return execs(args->old_pid);
}

TRACEPOINT_PROBE(sched, sched_process_exit)
{
	return exits();
}
#else
RAW_TRACEPOINT_PROBE(sys_enter)
{
	struct thread *t = current_thread();

	if (t)
		call_enters(t, ctx->args[0], ctx->args[1]);
	return 0;
}

RAW_TRACEPOINT_PROBE(sys_exit)
{
	struct thread *t = current_thread();

	if (t)
		call_leaves(t, ctx->args[0], ctx->args[1]);
	return 0;
}

/* (task, its tid before, bprm) */
RAW_TRACEPOINT_PROBE(sched_process_exec)
{
	return execs(ctx->args[1]);
}

RAW_TRACEPOINT_PROBE(sched_process_exit)
{
	return exits();
}
#endif
