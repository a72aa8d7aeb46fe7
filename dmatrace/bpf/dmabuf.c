// SPDX-License-Identifier: GPL-2.0-only
/*
 * The life of dma-bufs by the kernel's own tracepoints, which pass the struct
 * dma_buf first.  They fire under its name_lock: nothing slow is done here.
 * Where they are not there, the exit of dma_buf_export() does the same
 * (handlers.c, EXIT_EXPORT).
 */
RAW_TRACEPOINT_PROBE(dma_buf_export)
{
	struct thread *t = current_thread();

	if (t)
		emit_buffer(BUFFER_EXPORT, ctx->args[0], heap_of(t));
	return 0;
}
