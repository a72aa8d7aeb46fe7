// SPDX-License-Identifier: GPL-2.0-only
/*
 * What hooks note beyond time: bytes, from arguments and return values.  The
 * names are those of ENTRY_HANDLERS and EXIT_HANDLERS in hooks.py.
 */
#define PAGE_BYTES 4096ULL
#define IS_ERROR(ret) ((u64)(ret) >= (u64)-4095LL)
#define EIOCBQUEUED 529   /* include/linux/errno.h: the read goes on asynchronously */

static __always_inline u64 load64(u64 address)
{
	u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
	return value;
}

static __always_inline u32 load32(u64 address)
{
	u32 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
	return value;
}

static __always_inline u32 task_pid(u64 task)
{
	return load32(task + OFF_task_struct_pid);
}

/* Asynchronous direct reads under way: kiocb -> the traced thread that began it. */
BPF_TABLE("lru_hash", u64, u32, dios, DIOS_MAX);

/* A folio is 1 << order pages; the order lives in the low byte of the second
 * page's flags word since 6.6 (commit ebc1baf5c9b4 "mm: free up a word in the
 * first tail page"), in _folio_order before. */
static __always_inline u64 folio_bytes(u64 folio)
{
	if (!(load64(folio + OFF_folio_flags) & (1ULL << BIT_PG_head)))
		return PAGE_BYTES;
	return PAGE_BYTES << (load32(folio + OFF_folio_order) & 0xff);
}

static __always_inline void emit_buffer(u32 kind, u64 dmabuf)
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
	/* udmabuf pins its folios until release_udmabuf(). */
	if (kind == BUFFER_RELEASE && e.exporter[0] == 'u' && e.exporter[1] == 'd')
		unpin(e.size);
	if (events.ringbuf_output(&e, sizeof(e), BPF_RB_NO_WAKEUP))
		count_lost(LOST_RING);
}

static __always_inline void count_positive(struct thread *t, enum counter counter, s64 bytes)
{
	if (bytes > 0)
		t->counters[counter] += bytes;
}

/* Whether a read goes on after the call returns: a synchronous kiocb has no completion. */
static __always_inline int asynchronous(u64 iocb)
{
	return load64(iocb + OFF_kiocb_ki_complete) != 0;
}

static __always_inline void on_entry(struct thread *t, struct frame *f, u32 handler,
				     u64 a0, u64 a1, u64 a2)
{
	u64 dmabuf;
	u32 tid;

	switch (handler) {
	case ENTRY_FILEMAP_READ:        /* (iocb, iter, already_read) */
		f->arg = a2;
		break;
	case ENTRY_MEMFD_PIN:           /* (memfd, start, end, ...): end is inclusive */
		f->arg = a2 - a1 + 1;
		break;
	case ENTRY_RELEASE:             /* (dentry): its private data is the dma_buf */
		dmabuf = load64(a0 + OFF_dentry_d_fsdata);
		if (dmabuf)
			emit_buffer(BUFFER_RELEASE, dmabuf);
		break;
	case ENTRY_DIO_SUBMIT:          /* (iocb, ...) */
		if (asynchronous(a0)) {
			/* A worker is gone from the map before its read completes. */
			tid = t->owner ? t->owner : t->tid;
			dios.update(&a0, &tid);
			f->arg = a0;
		}
		break;
	case ENTRY_DIO_COMPLETE:        /* (dio): direct.c counts asynchronous ones */
		f->arg = asynchronous(load64(a0 + OFF_iomap_dio_iocb));
		break;
	case ENTRY_SPLICE_PIPE:         /* generic_file_splice_read: see the exit */
		f->arg = t->counters[COUNT_COPY_READ];
		break;
	}
}

/* Pages that the loader module pins for one read of a memfd; the next, or the
 * end, has unpinned them.  udmabuf's stay until its buffer is released. */
static __always_inline void pinned_for_module(struct thread *t, u64 bytes)
{
	struct frame *outer = &t->stack[(t->depth - 1) & (DEPTH_MAX - 1)];

	if (t->depth && outer->hook == HOOK_MODULE_READ) {
		unpin(outer->arg);
		outer->arg = bytes;
	}
	pin(t, bytes);
}

static __always_inline void on_exit(struct thread *t, struct frame *f, u32 handler, u64 ret)
{
	s64 bytes = ret;

	switch (handler) {
	case EXIT_FILEMAP_READ:         /* already_read plus what it copied */
		if (bytes > 0)
			count_positive(t, COUNT_COPY_READ, bytes - (s64)f->arg);
		break;
	case EXIT_PERFORM_WRITE:
		count_positive(t, COUNT_COPY_WRITE, bytes);
		break;
	case EXIT_SHMEM_READ:
		count_positive(t, COUNT_COPY_SHMEM_READ, bytes);
		break;
	case EXIT_DIO_COMPLETE:         /* ssize_t */
		if (f->arg)
			break;
	case EXIT_DIO_BYTES:            /* ssize_t, after a synchronous completion too */
		count_positive(t, COUNT_DIO, bytes);
		if (bytes < 0 && bytes != -EIOCBQUEUED)
			t->counters[COUNT_DIO_ERRORS] += 1;
		break;
	case EXIT_DIO_POINTER:          /* struct iomap_dio *: an ERR_PTR read nothing */
		if (IS_ERROR(ret) && bytes != -EIOCBQUEUED) {
			/* EAGAIN of an asynchronous one: whoever asked tries again. */
			if (f->arg)
				dios.delete(&f->arg);
			else
				t->counters[COUNT_DIO_ERRORS] += 1;
		}
		break;
	case EXIT_SHMEM_ALLOC:          /* struct folio * */
		if (ret && !IS_ERROR(ret))
			t->counters[COUNT_SHMEM_ALLOC] += folio_bytes(ret);
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
			emit_buffer(BUFFER_EXPORT, ret);
		break;
	case EXIT_SPLICE_CACHE:
		count_positive(t, COUNT_SPLICE_CACHE, bytes);
		break;
	case EXIT_SPLICE_SHMEM:
		count_positive(t, COUNT_SPLICE_SHMEM, bytes);
		break;
	case EXIT_SPLICE_PAGES:
		count_positive(t, COUNT_SPLICE_PAGES, bytes);
		break;
	case EXIT_SPLICE_PIPE:
		/* filemap_read() into a pipe passes references: it copied nothing. */
		count_positive(t, COUNT_SPLICE_CACHE, t->counters[COUNT_COPY_READ] - f->arg);
		t->counters[COUNT_COPY_READ] = f->arg;
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
