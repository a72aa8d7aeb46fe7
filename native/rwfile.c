// SPDX-License-Identifier: GPL-2.0-only
/*
 * RW_FILE: a file range into a range of a buffer that exists.
 */
#include <linux/file.h>

#include "loader.h"

static int dml_rw(struct dmatrace_loader_rw_file *arg, struct file *file, u32 align)
{
	struct dml_target target;
	struct dml_read read = {
		.file = file, .target = &target, .position = arg->file_offset,
		.offset = arg->buffer_offset, .length = arg->length, .chunk = arg->chunk,
		.align = align,
	};
	u64 start = ktime_get_ns();
	u64 mapped;
	int ret;

	ret = dmatrace_loader_map(&target, arg->buffer_fd, true, min(arg->chunk, arg->length));
	mapped = ktime_get_ns();
	arg->map_ns = mapped - start;
	if (ret)
		return ret;
	ret = -EINVAL;
	if (arg->buffer_offset > target.size || arg->length > target.size - arg->buffer_offset)
		goto unmap;
	ret = -EOPNOTSUPP;
	if (align && target.kind == DML_VADDR &&
	    (!DML_KVEC_DIRECT || !dml_vaddr_is_memory(&target)))
		goto unmap;
	ret = dmatrace_loader_read(&read);
	arg->bytes = read.done;
	arg->read_ns = ktime_get_ns() - mapped;
unmap:
	dmatrace_loader_unmap(&target);
	return ret;
}

long dml_ioctl_rw_file(struct dmatrace_loader_rw_file *arg)
{
	u64 start = ktime_get_ns();
	struct file *file;
	u32 align;
	int ret;

	arg->bytes = 0;
	arg->map_ns = 0;
	arg->read_ns = 0;
	arg->total_ns = 0;
	if (arg->flags & ~DMATRACE_LOADER_RW_FLAGS || arg->reserved ||
	    memchr_inv(arg->reserved2, 0, sizeof(arg->reserved2)))
		return -EINVAL;
	ret = dml_check_chunk(&arg->chunk);
	if (ret)
		return ret;
	ret = dml_file_get(arg->file_fd, arg->flags & DMATRACE_LOADER_RW_DIRECT, &file, &align);
	if (ret)
		return ret;
	ret = dml_check_range(file, arg->file_offset, arg->length,
			      arg->buffer_offset | arg->chunk, align);
	if (!ret)
		ret = dml_rw(arg, file, align);
	fput(file);
	arg->total_ns = ktime_get_ns() - start;
	return ret;
}
