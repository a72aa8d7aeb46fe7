// SPDX-License-Identifier: GPL-2.0-only
/*
 * Processes that nobody follows yet and that ask for a dma-buf: of the machine's
 * tasks only those that call dma_heap_ioctl() or udmabuf_ioctl() come here.
 */
BPF_HASH(newcomers, u32, u64, NEWCOMERS_MAX);

static __always_inline int newcomer(void)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	u64 now = bpf_ktime_get_ns();

	/* A full table is emptied within a tick of the recorder, and they ask again. */
	if (!current_thread())
		newcomers.update(&tgid, &now);
	return 0;
}

#ifdef WITH_FENTRY
KFUNC_PROBE(newcomer)
{
	return newcomer();
}
#endif

#ifdef WITH_KPROBE
int kprobe_newcomer_entry(void *ctx)
{
	return newcomer();
}
#endif
