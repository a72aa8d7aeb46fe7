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
		count_lost();
}

static __always_inline void count_positive(struct thread *t, enum counter counter, s64 bytes)
{
	if (bytes > 0)
		t->counters[counter] += bytes;
}

static __always_inline void on_entry(struct frame *f, u32 handler, u64 a0, u64 a1, u64 a2)
{
	u64 dmabuf;

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
	}
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
	case EXIT_DIO_BYTES:            /* ssize_t */
		count_positive(t, COUNT_DIO, bytes);
		if (bytes < 0 && bytes != -EIOCBQUEUED)
			t->counters[COUNT_DIO_ERRORS] += 1;
		break;
	case EXIT_DIO_POINTER:          /* struct iomap_dio *: an ERR_PTR read nothing */
		if (IS_ERROR(ret) && bytes != -EIOCBQUEUED)
			t->counters[COUNT_DIO_ERRORS] += 1;
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
			pin(t, f->arg);
		break;
	case EXIT_EXPORT:               /* struct dma_buf * */
		if (ret && !IS_ERROR(ret))
			emit_buffer(BUFFER_EXPORT, ret);
		break;
	}
}
