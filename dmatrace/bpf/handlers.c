// SPDX-License-Identifier: GPL-2.0-only
/*
 * What hooks note beyond time: bytes, from arguments and return values.  The
 * names are those of ENTRY_HANDLERS and EXIT_HANDLERS in hooks.py.
 */
#define IS_ERROR(ret) ((u64)(ret) >= (u64)-4095LL)
#define EAGAIN 11
#define EIOCBQUEUED 529   /* include/linux/errno.h: the read goes on asynchronously */

/* Asynchronous direct reads under way: kiocb -> the traced thread that began it. */
BPF_TABLE("lru_hash", u64, u32, dios, DIOS_MAX);

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
		f->file = file_of(a0);
		read_begins(t, f->file, load64(a0 + OFF_kiocb_ki_pos));
		break;
	case ENTRY_SPLICE_CACHE:        /* (in, ppos, pipe, len, flags) */
		f->file = a0;
		read_begins(t, a0, load64(a1));
		break;
	case ENTRY_IOCB:
		f->file = file_of(a0);
		break;
	case ENTRY_FILE:
		f->file = a0;
		break;
	case ENTRY_DIO_OTHER:           /* (iocb, inode, bdev, iter, ...) */
		f->file = dio_unknown(a0);
		count_io(f->file, IO_CALL, 0);
		break;
	case ENTRY_FILEMAP_FAULT:       /* (vmf) */
		fault_begins(t, a0);
		break;
	case ENTRY_MAP_PAGES:           /* (vmf, start_pgoff, end_pgoff): the end is inclusive */
		pages_mapped(t, a0, a1, a2);
		break;
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
	case ENTRY_DIO_SUBMIT:          /* (iocb, iter, ...) */
		if (asynchronous(a0)) {
			/* A worker is gone from the map before its read completes. */
			tid = t->owner ? t->owner : t->tid;
			dios.update(&a0, &tid);
			f->arg = a0;
		}
		/* fall through */
	case ENTRY_DIO_BLOCK:           /* (iocb, iter) */
		f->file = dio_begins(a0, a1);
		count_io(f->file, IO_CALL, 0);
		note_alignment(f->file, a0, a1);
		break;
	case ENTRY_DIO_COMPLETE:        /* (dio): direct.c counts asynchronous ones */
		a0 = load64(a0 + OFF_iomap_dio_iocb);
		f->arg = asynchronous(a0);
		f->file = dio_ends(a0);
		break;
	case ENTRY_SPLICE_PIPE:         /* generic_file_splice_read(in, ...): see the exit */
		f->file = a0;
		f->arg = t->counters[COUNT_COPY_READ];
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

static __always_inline void count_write(struct thread *t, u64 file, u64 bytes)
{
	int shmem = in_memory(file), pipe = t->phase == PHASE_SPLICE;

	t->counters[COUNT_COPY_WRITE] += bytes;
	if (shmem)
		t->counters[COUNT_COPY_WRITE_SHMEM] += bytes;
	if (pipe)
		t->counters[COUNT_COPY_WRITE_PIPE] += bytes;
	if (shmem && pipe)
		t->counters[COUNT_COPY_PIPE_SHMEM] += bytes;
}

static __always_inline void on_exit(struct thread *t, struct frame *f, u32 handler, u64 ret)
{
	enum io_path path = IO_NONE;
	s64 bytes = ret;

	/* t->phase is that of the frame around this one. */
	switch (handler) {
	case EXIT_FILEMAP_READ:         /* already_read plus what it copied */
		bytes -= (s64)f->arg;
		if ((s64)ret > 0) {
			path = IO_BUFFERED;
			count_positive(t, COUNT_COPY_READ, bytes);
			if (t->phase == PHASE_MODULE)
				count_positive(t, COUNT_COPY_READ_MODULE, bytes);
		}
		read_ends(t, bytes);
		break;
	case EXIT_FILEMAP_FAULT:
		fault_ends(t);
		break;
	case EXIT_PERFORM_WRITE:
		if (bytes > 0)
			count_write(t, f->file, bytes);
		break;
	case EXIT_SHMEM_READ:
		count_positive(t, COUNT_COPY_SHMEM_READ, bytes);
		path = IO_BUFFERED;
		break;
	case EXIT_DIO_COMPLETE:         /* ssize_t */
		if (f->arg)
			break;
	case EXIT_DIO_BYTES:            /* ssize_t, after a synchronous completion too */
		count_positive(t, COUNT_DIO, bytes);
		path = IO_DIRECT;
		if (bytes < 0 && bytes != -EIOCBQUEUED) {
			t->counters[COUNT_DIO_ERRORS] += 1;
			path = IO_ERROR;
		}
		break;
	case EXIT_DIO_POINTER:          /* struct iomap_dio *: an ERR_PTR read nothing */
		if (IS_ERROR(ret) && bytes != -EIOCBQUEUED) {
			/* EAGAIN of an asynchronous one: whoever asked tries again. */
			if (f->arg)
				dios.delete(&f->arg);
			else
				t->counters[COUNT_DIO_ERRORS] += 1;
			if (!f->arg || bytes != -EAGAIN)
				path = IO_ERROR;
		}
		break;
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
	case EXIT_SPLICE_CACHE:
		count_positive(t, COUNT_SPLICE_CACHE, bytes);
		path = IO_SPLICED;
		read_ends(t, bytes);
		break;
	case EXIT_SPLICE_SHMEM:
		count_positive(t, COUNT_SPLICE_SHMEM, bytes);
		path = IO_SPLICED;
		break;
	case EXIT_SPLICE_PAGES:
		count_positive(t, COUNT_SPLICE_PAGES, bytes);
		break;
	case EXIT_SPLICE_PIPE:
		/* filemap_read() into a pipe passes references: it copied nothing. */
		bytes = t->counters[COUNT_COPY_READ] - f->arg;
		count_positive(t, COUNT_SPLICE_CACHE, bytes);
		t->counters[COUNT_COPY_READ] = f->arg;
		path = IO_PIPED;
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
	if (path == IO_ERROR || (path != IO_NONE && bytes > 0))
		count_io(f->file, path, bytes);
}
