// SPDX-License-Identifier: GPL-2.0-only
/*
 * Asynchronous direct reads (io_uring, aio) complete in interrupts and
 * kworkers, where the current task is anyone: their bytes go to the thread
 * that began them, which handlers.c noted by kiocb.
 */
static __always_inline int dio_ended(u64 iocb, s64 bytes)
{
	u32 *tid = dios.lookup(&iocb);
	struct thread *t;
	u32 owner;

	way_completes(iocb, bytes);
	if (!tid)
		return 0;
	owner = *tid;
	dios.delete(&iocb);
	t = threads.lookup(&owner);
	if (t && bytes > 0)
		__sync_fetch_and_add(&t->counters[COUNT_DIO], bytes);
	if (bytes > 0)
		count_io(dio_ends(iocb), IO_DIRECT, bytes);
	return 0;
}

/*
 * (iocb, error, ret).  A kprobe would miss what completes in an interrupt of
 * another kprobe's handler (kprobe_ftrace_handler(), trace_call_bpf()).
 */
RAW_TRACEPOINT_PROBE(iomap_dio_complete)
{
	return dio_ended(ctx->args[0], ctx->args[2]);
}

/* Where that tracepoint is not: before the commit "iomap: Add DIO tracepoints" (in 2023). */
static __always_inline int dio_completed(u64 dio)
{
	u64 iocb = load64(dio + OFF_iomap_dio_iocb);
	s64 bytes = load64(dio + OFF_iomap_dio_size), left;

	/* As iomap_dio_complete() cuts a read that the file's end made short. */
	left = load64(dio + OFF_iomap_dio_i_size) - load64(iocb + OFF_kiocb_ki_pos);
	if (bytes > left)
		bytes = left;
	return dio_ended(iocb, load32(dio + OFF_iomap_dio_error) ? 0 : bytes);
}

#ifdef WITH_FENTRY
KFUNC_PROBE(dio_complete)
{
	u64 dio = 0;

	func_arg(ctx, 0, &dio);
	return dio_completed(dio);
}
#endif

#ifdef WITH_KPROBE
int kprobe_dio_complete_entry(void *ctx)
{
	return dio_completed(REGISTER(ctx, OFF_ARG0));
}
#endif
