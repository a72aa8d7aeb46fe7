// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reading a file range into a target, in chunks between which it can be killed.
 *
 * vfs_iocb_iter_read() is where the file's mode, its locks and the security
 * modules have their say, as for read(2).
 */
#include <linux/blkdev.h>
#include <linux/file.h>
#include <linux/highmem.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/stat.h>

#include "loader.h"

u64 dml_file_size(struct file *file)
{
	return i_size_read(file->f_mapping->host);
}

/* Block size of direct reads from @file; 0: it has none. */
static u32 dml_direct_align(struct file *file)
{
	struct inode *inode = file->f_mapping->host;
	struct kstat stat = {};
	u32 align;

	if (S_ISBLK(inode->i_mode))
		return bdev_logical_block_size(I_BDEV(inode));
	if (vfs_getattr(&file->f_path, &stat, STATX_DIOALIGN, AT_STATX_DONT_SYNC))
		return 0;
	if (!(stat.result_mask & STATX_DIOALIGN))
		return i_blocksize(inode);
	/* Segments of a read must be whole blocks, so memory is aligned alike. */
	align = max(stat.dio_mem_align, stat.dio_offset_align);
	return stat.dio_offset_align && is_power_of_2(align) && align <= DML_MAX_ALIGN ? align : 0;
}

/*
 * The file behind @fd if it can be read as asked.  EBADF: not open, or not for
 * reading; EINVAL: another kind of file; EOPNOTSUPP: no direct reads.
 */
int dml_file_get(int fd, bool direct, struct file **file, u32 *align)
{
	struct file *found = fget(fd);
	int ret = -EBADF;

	if (!found)
		return -EBADF;
	if (!(found->f_mode & FMODE_READ))
		goto put;
	ret = -EINVAL;
	if (!S_ISREG(file_inode(found)->i_mode) && !S_ISBLK(file_inode(found)->i_mode))
		goto put;
	*align = 0;
	if (direct || found->f_flags & O_DIRECT) {
		ret = -EOPNOTSUPP;
		if (!(found->f_mode & FMODE_CAN_ODIRECT))
			goto put;
		*align = dml_direct_align(found);
		if (!*align)
			goto put;
	}
	*file = found;
	return 0;
put:
	fput(found);
	return ret;
}

/*
 * EINVAL for what cannot be a range of a file, and for unaligned direct reads.
 * @steps: what else has to be whole blocks: where reads begin in buffer and file.
 */
int dml_check_range(struct file *file, u64 position, u64 length, u64 steps, u32 align)
{
	if (!length || position > MAX_LFS_FILESIZE || length > MAX_LFS_FILESIZE - position)
		return -EINVAL;
	if (!align)
		return 0;
	if (!IS_ALIGNED(position | steps, align))
		return -EINVAL;
	if (!IS_ALIGNED(length, align) && position + length < dml_file_size(file))
		return -EINVAL;
	return 0;
}

int dml_check_chunk(u64 *chunk)
{
	if (!*chunk)
		*chunk = DMATRACE_LOADER_DEFAULT_CHUNK;
	return *chunk > DMATRACE_LOADER_MAX_CHUNK || !PAGE_ALIGNED(*chunk) ? -EINVAL : 0;
}

static ssize_t dml_read_iter(struct dml_read *read, u64 position, struct iov_iter *iter)
{
	struct kiocb kiocb;

	init_sync_kiocb(&kiocb, read->file);
	/* As it was checked, not as the fd's flags have become since. */
	if (read->align)
		kiocb.ki_flags |= IOCB_DIRECT;
	else
		kiocb.ki_flags &= ~IOCB_DIRECT;
	kiocb.ki_pos = position;
	return vfs_iocb_iter_read(read->file, &kiocb, iter);
}

static bool dml_stopped(const struct dml_read *read)
{
	return fatal_signal_pending(current) || (read->stop && READ_ONCE(*read->stop));
}

/*
 * Up to @length bytes at read->done.  Returns the bytes read; *end when the
 * file ended within them.
 */
static ssize_t dml_read_chunk(struct dml_read *read, size_t length, bool *end)
{
	u64 position = read->position + read->done;
	u64 offset = read->offset + read->done;
	struct iov_iter iter, rest;
	size_t wanted;
	ssize_t ret;

	ret = dml_target_begin(read->target, offset, length, &iter);
	if (ret)
		return ret;
	rest = iter;
	wanted = iov_iter_count(&iter);
	ret = dml_read_iter(read, position, &iter);
	if (!ret || (ret > 0 && read->align && !IS_ALIGNED(ret, read->align)))
		*end = true;
	if (ret > 0 && *end) {
		/*
		 * The file was cut short meanwhile.  The device may have written
		 * whole blocks all the same; nothing past the new end stays.
		 */
		iov_iter_advance(&rest, ret);
		iov_iter_zero(wanted - ret, &rest);
	}
	dml_target_end(read->target);
	return ret;
}

/*
 * The last, partial block of a direct read: into a block of our own, so that
 * not a byte beyond the range is touched.
 */
static ssize_t dml_read_tail(struct dml_read *read, size_t length)
{
	u64 position = read->position + read->done;
	struct kvec kvec = { .iov_len = read->align };
	struct bio_vec bv;
	struct iov_iter iter;
	ssize_t ret;

	/* Power-of-two sizes are naturally aligned, and physically contiguous. */
	kvec.iov_base = kmalloc(max_t(size_t, read->align, PAGE_SIZE), GFP_KERNEL_ACCOUNT);
	if (!kvec.iov_base)
		return -ENOMEM;
	bv.bv_page = virt_to_page(kvec.iov_base);
	bv.bv_len = read->align;
	bv.bv_offset = offset_in_page(kvec.iov_base);
	iov_iter_bvec(&iter, ITER_DEST, &bv, 1, read->align);
	ret = dml_read_iter(read, position, &iter);
	if (ret > 0) {
		size_t copied = 0, count = min_t(size_t, ret, length);

		while (copied < count) {
			size_t part;
			int err;

			err = dml_target_begin(read->target, read->offset + read->done + copied,
					       count - copied, &iter);
			if (err) {
				ret = err;
				goto free;
			}
			part = copy_to_iter(kvec.iov_base + copied, iov_iter_count(&iter), &iter);
			dml_target_end(read->target);
			if (!part) {
				ret = -EFAULT;
				goto free;
			}
			copied += part;
		}
		ret = count;
	}
free:
	kfree(kvec.iov_base);
	return ret;
}

/**
 * dmatrace_loader_read - read a file range into a target
 * @read:	what, where, and how far it got
 *
 * Return: 0 when all is read or the file has ended, -EINTR when the caller was
 * killed, -ECANCELED when read->stop was set, or the file's error.
 */
noinline __noclone int dmatrace_loader_read(struct dml_read *read)
{
	u64 size = dml_file_size(read->file);
	u64 length = read->length;
	bool end = false;
	u64 body;
	ssize_t ret;

	/* Files without a size (procfs) are none that a loader reads. */
	if (read->position >= size)
		return 0;
	/* Direct reads across the end of a file overwrite as much as they like. */
	if (read->align)
		length = min(length, size - read->position);
	body = read->align ? round_down(length, read->align) : length;
	while (read->done < body && !end) {
		if (dml_stopped(read))
			return fatal_signal_pending(current) ? -EINTR : -ECANCELED;
		ret = dml_read_chunk(read, min(read->chunk, body - read->done), &end);
		if (ret < 0)
			return ret;
		read->done += ret;
		cond_resched();
	}
	if (end || read->done == length)
		return 0;
	if (dml_stopped(read))
		return fatal_signal_pending(current) ? -EINTR : -ECANCELED;
	ret = dml_read_tail(read, length - read->done);
	if (ret < 0)
		return ret;
	read->done += ret;
	return 0;
}
