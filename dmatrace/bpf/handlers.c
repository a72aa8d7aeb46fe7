// SPDX-License-Identifier: GPL-2.0-only
/*
 * What hooks note beyond time: bytes, from arguments and return values.  The
 * names are those of ENTRY_HANDLERS and EXIT_HANDLERS in hooks.py.
 */
#define IS_ERROR(ret) ((u64)(ret) >= (u64)-4095LL)

static __always_inline void emit_buffer(u32 kind, u64 dmabuf, u64 heap)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct buffer_event e = {
		.type = EV_BUFFER, .kind = kind, .tid = pid_tgid, .tgid = pid_tgid >> 32,
		.at = bpf_ktime_get_ns(),
	};

	e.size = load64(dmabuf + OFF_dma_buf_size);
	e.ino = load64(load64(load64(dmabuf + OFF_dma_buf_file) + OFF_file_f_inode) + OFF_inode_i_ino);
	bpf_probe_read_kernel_str(e.exporter, sizeof(e.exporter),
				  (void *)load64(dmabuf + OFF_dma_buf_exp_name));
	if (heap)
		bpf_probe_read_kernel_str(e.heap, sizeof(e.heap), (void *)heap);
	/* udmabuf pins its folios until release_udmabuf(). */
	if (kind == BUFFER_RELEASE && e.exporter[0] == 'u' && e.exporter[1] == 'd')
		unpin(e.size);
	if (events.ringbuf_output(&e, sizeof(e), BPF_RB_NO_WAKEUP))
		count_lost(LOST_RING);
}

/* The name of the heap that the call under way asks, or 0.  Frame 0 is the system call. */
static __always_inline u64 heap_of(struct thread *t)
{
	int asked = t->depth > 0 && t->stack[0].phase == PHASE_HEAP_ALLOC;

	asked |= t->depth > 1 && t->stack[1].phase == PHASE_HEAP_ALLOC;
	return asked ? t->heap : 0;
}

static __always_inline void count_positive(struct thread *t, enum counter counter, s64 bytes)
{
	if (bytes > 0)
		t->counters[counter] += bytes;
}

static __always_inline void on_entry(struct thread *t, struct frame *f, u32 handler,
				     u64 a0, u64 a1, u64 a2)
{
	u64 dmabuf;

	switch (handler) {
	case ENTRY_REFAULT:             /* (folio, shadow) */
		refaulted(t, a0);
		break;
	case ENTRY_MEMFD_PIN:           /* (memfd, start, end, ...): end is inclusive */
		f->arg = a2 - a1 + 1;
		break;
	case ENTRY_RELEASE:             /* (dentry): its private data is the dma_buf */
		dmabuf = load64(a0 + OFF_dentry_d_fsdata);
		if (dmabuf)
			emit_buffer(BUFFER_RELEASE, dmabuf, 0);
		break;
	}
}

/* Pages that the loader module pins for one read of a memfd; the next, or the
 * end, has unpinned them.  udmabuf's stay until its buffer is released. */
static __always_inline void pinned_for_module(struct thread *t, u64 bytes)
{
	struct frame *outer = &t->stack[SLOT(t->depth - 1)];

	if (t->depth && outer->hook == HOOK_MODULE_READ) {
		unpin(outer->arg);
		outer->arg = bytes;
	}
	pin(t, bytes);
}

static __always_inline void on_exit(struct thread *t, struct frame *f, u32 handler, u64 ret)
{
	s64 bytes = ret;

	/* t->phase is that of the frame around this one. */
	switch (handler) {
	case EXIT_SHMEM_ALLOC:          /* struct folio * */
		if (ret && !IS_ERROR(ret))
			shmem_added(t, ret);
		break;
	case EXIT_PIN_PAGES:            /* int: pages, or an errno */
		if ((s32)ret > 0)
			pin(t, (s32)ret * PAGE_BYTES);
		break;
	case EXIT_MEMFD_PIN:            /* long: folios; the bytes are the range asked for */
		if (bytes > 0)
			pinned_for_module(t, f->arg);
		break;
	case EXIT_EXPORT:               /* struct dma_buf * */
		if (ret && !IS_ERROR(ret))
			emit_buffer(BUFFER_EXPORT, ret, heap_of(t));
		break;
	case EXIT_SPLICE_PAGES:
		count_positive(t, COUNT_SPLICE_PAGES, bytes);
		break;
	case EXIT_SPLICE_WRITE:
		count_positive(t, COUNT_SPLICE_WRITE, bytes);
		break;
	case EXIT_STREAM_WRITE:
		count_positive(t, COUNT_COPY_STREAM, bytes);
		break;
	case EXIT_MODULE_READ:
		unpin(f->arg);
		break;
	}
}
