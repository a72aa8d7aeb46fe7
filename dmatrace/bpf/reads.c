// SPDX-License-Identifier: GPL-2.0-only
/*
 * What hooks of functions that read files note beyond time: bytes, by path, and
 * by what the way of a load is known (ways.c).  The names are those of
 * ENTRY_HANDLERS and EXIT_HANDLERS in hook.py, of hooks whose program is "read_hook":
 * apart from handlers.c, because the kernel checks a program once for every
 * function that it is attached to.
 */
#define EAGAIN 11
#define EIOCBQUEUED 529   /* include/linux/errno.h: the read goes on asynchronously */

/* Asynchronous direct reads under way: kiocb -> the traced thread that began it. */
BPF_TABLE("lru_hash", u64, u32, dios, DIOS_MAX);

/* Whether a read goes on after the call returns: a synchronous kiocb has no completion. */
static __always_inline int asynchronous(u64 iocb)
{
	return load64(iocb + OFF_kiocb_ki_complete) != 0;
}

static __always_inline void on_read_entry(struct thread *t, struct frame *f, u32 handler,
					  u64 a0, u64 a1, u64 a2)
{
	u64 file = 0, mapped = PAGE_BYTES;
	u32 tid, path = WAY_NONE;

	switch (handler) {
	case ENTRY_FILEMAP_READ:        /* (iocb, iter, already_read) */
		f->arg = a2;
		f->file = file_of(a0);
		read_begins(t, f->file, load64(a0 + OFF_kiocb_ki_pos));
		path = t->sink ? WAY_SPLICED : WAY_BUFFERED;
		break;
	case ENTRY_SPLICE_CACHE:        /* (in, ppos, pipe, len, flags) */
		f->file = a0;
		read_begins(t, a0, load64(a1));
		path = WAY_SPLICED;
		a0 = a1 = 0;
		break;
	case ENTRY_SHMEM_READ:
		path = WAY_BUFFERED;
		/* fall through */
	case ENTRY_IOCB:
		f->file = file_of(a0);
		break;
	case ENTRY_FILE:                /* of a splice out of a file in memory */
		f->file = a0;
		path = WAY_SPLICED;
		a0 = a1 = 0;
		break;
	case ENTRY_DIO_OTHER:           /* (iocb, inode, bdev, iter, ...) */
		f->file = dio_unknown(a0);
		count_io(f->file, IO_CALL, 0);
		path = WAY_DIRECT;
		a1 = 0;                 /* the iterator is out of reach */
		break;
	case ENTRY_FILEMAP_FAULT:       /* (vmf) */
		fault_begins(t, a0);
		path = WAY_FAULT;
		file = file_of_fault(a0);
		break;
	case ENTRY_MAP_PAGES:           /* (vmf, start_pgoff, end_pgoff): the end is inclusive */
		pages_mapped(t, a0, a1, a2);
		path = WAY_FAULT;
		file = file_of_fault(a0);
		mapped = (a2 + 1 - a1) * PAGE_BYTES;
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
		path = WAY_DIRECT;
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
	if (path != WAY_NONE)
		way_begins(t, path == WAY_FAULT ? file : f->file, path, a0, a1, mapped);
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

static __always_inline void on_read_exit(struct thread *t, struct frame *f, u32 handler, u64 ret)
{
	enum io_path path = IO_NONE;
	s64 bytes = ret;
	int ended = 0;

	/* t->phase is that of the frame around this one. */
	switch (handler) {
	case EXIT_FILEMAP_READ:         /* already_read plus what it copied */
		bytes -= (s64)f->arg;
		ended = 1;
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
		if (bytes > 0) {
			count_write(t, f->file, bytes);
			if (in_memory(f->file))
				way_written(t, f->file, bytes);
		}
		break;
	case EXIT_SHMEM_READ:
		count_positive(t, COUNT_COPY_SHMEM_READ, bytes);
		path = IO_BUFFERED;
		ended = 1;
		break;
	case EXIT_DIO_COMPLETE:         /* ssize_t */
		if (f->arg)
			break;
		/* fall through */
	case EXIT_DIO_BYTES:            /* ssize_t, after a synchronous completion too */
		count_positive(t, COUNT_DIO, bytes);
		path = IO_DIRECT;
		ended = 1;
		if (bytes < 0 && bytes != -EIOCBQUEUED) {
			t->counters[COUNT_DIO_ERRORS] += 1;
			path = IO_ERROR;
		}
		break;
	case EXIT_DIO_POINTER:          /* struct iomap_dio *: an ERR_PTR read nothing */
		/* What is not asynchronous goes on with iomap_dio_complete(dio), behind this call. */
		ended = !f->arg && (!ret || IS_ERROR(ret));
		if (IS_ERROR(ret) && bytes != -EIOCBQUEUED) {
			/* EAGAIN of an asynchronous one: whoever asked tries again. */
			if (f->arg) {
				dios.delete(&f->arg);
				way_completes(f->arg, 0);
			} else {
				t->counters[COUNT_DIO_ERRORS] += 1;
			}
			if (!f->arg || bytes != -EAGAIN)
				path = IO_ERROR;
		}
		break;
	case EXIT_SPLICE_CACHE:
		count_positive(t, COUNT_SPLICE_CACHE, bytes);
		path = IO_SPLICED;
		ended = 1;
		read_ends(t, bytes);
		break;
	case EXIT_SPLICE_SHMEM:
		count_positive(t, COUNT_SPLICE_SHMEM, bytes);
		path = IO_SPLICED;
		ended = 1;
		break;
	case EXIT_SPLICE_PIPE:
		/* filemap_read() into a pipe passes references: it copied nothing. */
		bytes = t->counters[COUNT_COPY_READ] - f->arg;
		count_positive(t, COUNT_SPLICE_CACHE, bytes);
		t->counters[COUNT_COPY_READ] = f->arg;
		path = IO_PIPED;
		break;
	}
	if (path == IO_ERROR || (path != IO_NONE && bytes > 0))
		count_io(f->file, path, bytes);
	if (path == IO_DIRECT || ended)
		way_goes(t, path == IO_NONE || path == IO_ERROR ? 0 : bytes, ended);
}
