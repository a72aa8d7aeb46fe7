// SPDX-License-Identifier: GPL-2.0-only
/*
 * STREAM: a fd whose writes go to a dma-buf, for sendfile(2) and splice(2),
 * which the dma-buf's own fd does not take.
 */
#include <linux/anon_inodes.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/splice.h>

#include "loader.h"

/* Copied at once, between looks at pending signals. */
#define DML_STREAM_CHUNK	SZ_1M

/**
 * struct dml_stream - what a stream's fd holds
 * @target:	the dma-buf
 * @lock:	@target serves one copy at a time
 * @offset:	of the stream in the buffer
 * @length:	bytes of the stream
 */
struct dml_stream {
	struct dml_target target;
	struct mutex lock;	/* target */
	u64 offset;
	u64 length;
};

/* Copies from user space or a pipe into @to; a short count is a fault. */
static size_t dml_stream_copy(struct iov_iter *to, struct dml_target *target,
			      struct iov_iter *from)
{
	size_t copied = 0, length = iov_iter_count(to);
	unsigned int i;

	if (target->kind == DML_VADDR)
		return copy_from_iter(target->kvec.iov_base, length, from);
	for (i = 0; copied < length; i++) {
		const struct bio_vec *bv = &target->bv[i];
		size_t within = 0;

		while (within < bv->bv_len) {
			size_t at = bv->bv_offset + within;
			size_t part = min(PAGE_SIZE - offset_in_page(at), bv->bv_len - within);
			size_t now = copy_page_from_iter(bv->bv_page + (at >> PAGE_SHIFT),
							 offset_in_page(at), part, from);

			copied += now;
			within += now;
			if (now < part)
				return copied;
		}
	}
	return copied;
}

/**
 * dmatrace_loader_stream_write - write into the dma-buf of a stream
 * @iocb:	position in the stream
 * @from:	the data
 *
 * Return: bytes written; -ENOSPC at the end, -EFAULT, or -EINTR when killed.
 */
noinline __noclone ssize_t dmatrace_loader_stream_write(struct kiocb *iocb, struct iov_iter *from)
{
	struct dml_stream *stream = iocb->ki_filp->private_data;
	struct dma_buf *dmabuf = stream->target.dmabuf;
	ssize_t written = 0;
	int ret;

	if (!iov_iter_count(from))
		return 0;
	if (iocb->ki_pos < 0)
		return -EINVAL;
	if (iocb->ki_pos >= stream->length)
		return -ENOSPC;
	iov_iter_truncate(from, stream->length - iocb->ki_pos);
	if (mutex_lock_killable(&stream->lock))
		return -EINTR;
	ret = dml_begin_access(dmabuf);
	if (ret)
		goto unlock;
	while (iov_iter_count(from)) {
		size_t wanted = min_t(size_t, iov_iter_count(from), DML_STREAM_CHUNK);
		struct iov_iter to;
		size_t copied;

		ret = -EINTR;
		if (fatal_signal_pending(current))
			break;
		ret = dml_target_begin(&stream->target, stream->offset + iocb->ki_pos, wanted, &to);
		if (ret)
			break;
		copied = dml_stream_copy(&to, &stream->target, from);
		dml_target_end(&stream->target);
		iocb->ki_pos += copied;
		written += copied;
		if (copied < iov_iter_count(&to)) {
			ret = -EFAULT;
			break;
		}
		cond_resched();
	}
	if (stream->target.kind == DML_VADDR)
		flush_kernel_vmap_range(stream->target.vaddr, stream->target.size);
	dma_buf_end_cpu_access(dmabuf, DMA_BIDIRECTIONAL);
unlock:
	mutex_unlock(&stream->lock);
	return written ?: ret;
}

static loff_t dml_stream_llseek(struct file *file, loff_t offset, int whence)
{
	struct dml_stream *stream = file->private_data;

	return fixed_size_llseek(file, offset, whence, stream->length);
}

static int dml_stream_release(struct inode *inode, struct file *file)
{
	struct dml_stream *stream = file->private_data;

	dmatrace_loader_unmap(&stream->target);
	kfree(stream);
	return 0;
}

static const struct file_operations dml_stream_fops = {
	.owner		= THIS_MODULE,
	.write_iter	= dmatrace_loader_stream_write,
	.splice_write	= iter_file_splice_write,
	.llseek		= dml_stream_llseek,
	.release	= dml_stream_release,
};

static int dml_stream_range(struct dml_stream *stream, struct dmatrace_loader_stream *arg)
{
	u64 size = stream->target.size;

	if (arg->offset >= size || arg->length > size - arg->offset)
		return -EINVAL;
	stream->offset = arg->offset;
	stream->length = arg->length ?: size - arg->offset;
	return 0;
}

long dml_ioctl_stream(struct dmatrace_loader_stream *arg, struct file **out)
{
	struct dml_stream *stream;
	struct file *file;
	int ret;

	if (arg->fd_flags & ~(u32)O_CLOEXEC || arg->reserved ||
	    memchr_inv(arg->reserved2, 0, sizeof(arg->reserved2)))
		return -EINVAL;
	stream = kzalloc(sizeof(*stream), GFP_KERNEL_ACCOUNT);
	if (!stream)
		return -ENOMEM;
	mutex_init(&stream->lock);
	ret = dmatrace_loader_map(&stream->target, arg->buffer_fd, false, DML_STREAM_CHUNK);
	if (ret)
		goto free;
	ret = dml_stream_range(stream, arg);
	if (ret)
		goto unmap;
	file = anon_inode_getfile("[dmatrace_loader]", &dml_stream_fops, stream, O_WRONLY);
	ret = PTR_ERR_OR_ZERO(file);
	if (ret)
		goto unmap;
	/*
	 * For pwrite(2), lseek(2) and splice(2) with an offset; and write(2)s of
	 * several threads come one after the other, as in a regular file.
	 */
	file->f_mode |= FMODE_LSEEK | FMODE_PWRITE | FMODE_ATOMIC_POS;
	*out = file;
	return 0;
unmap:
	dmatrace_loader_unmap(&stream->target);
free:
	kfree(stream);
	return ret;
}
