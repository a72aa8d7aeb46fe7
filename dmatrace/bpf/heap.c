// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which dma-heap an allocation asks: a dma-buf knows its exporter, and every
 * heap of a kind has the same.  dma_heap_ioctl(file, ...): the file's private
 * data is the heap.
 */
static __always_inline int heap_asked(u64 file)
{
	struct thread *t = current_thread();

	if (t)
		t->heap = load64(load64(file + OFF_file_private_data) + OFF_dma_heap_name);
	return 0;
}

#ifdef WITH_FENTRY
KFUNC_PROBE(heap)
{
	u64 file = 0;

	func_arg(ctx, 0, &file);
	return heap_asked(file);
}
#endif

#ifdef WITH_KPROBE
int kprobe_heap_entry(void *ctx)
{
	return heap_asked(REGISTER(ctx, OFF_ARG0));
}
#endif
