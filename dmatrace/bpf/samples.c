// SPDX-License-Identifier: GPL-2.0-only
/*
 * Kernel stacks of traced threads that are on a CPU, by a software clock event
 * per CPU (PERF_COUNT_SW_CPU_CLOCK, an hrtimer: emulated and virtual machines
 * have no PMU).  Each says whose cell the time at that moment goes to; user
 * space turns addresses into functions, and functions into phases.
 *
 * The kernel drops a tick that interrupts a kprobe's BPF program on the same
 * CPU (bpf_prog_active), and delivers one late where interrupts are off.
 */
BPF_PERCPU_ARRAY(sampled, struct sample, 1);  /* too big for the BPF stack */

int on_cpu_clock(void *ctx)
{
	struct thread *t = current_thread();
	struct sample *s;
	int zero = 0;
	s64 bytes;

	if (!t)
		return 0;
	s = sampled.lookup(&zero);
	if (!s)
		return 0;
	/* In user space there are no kernel frames, and that is an error here. */
	bytes = bpf_get_stack(ctx, s->ips, (FRAMES_MAX - 1) * sizeof(u64), 0);
	if (bytes < 0)
		bytes = 0;
	s->type = EV_SAMPLE;
	s->bytes = bytes;
	s->tid = t->tid;
	s->tgid = t->tgid;
	s->phase = t->phase;
	s->mode = t->mode;
	s->at = bpf_ktime_get_ns();
	bytes &= FRAMES_MAX * sizeof(u64) - 1;  /* the verifier's bound */
	if (events.ringbuf_output(s, offsetof(struct sample, ips) + bytes, BPF_RB_NO_WAKEUP))
		count_lost(LOST_RING);
	return 0;
}
