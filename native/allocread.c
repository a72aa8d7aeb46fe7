// SPDX-License-Identifier: GPL-2.0-only
/*
 * ALLOC_READ: allocate, read, and only then export.
 */
#include <linux/file.h>
#include <linux/mm.h>

#include "loader.h"

/*
 * Reads @length bytes of the file into @nr pages from @first on, through a
 * vmap() of them or through their bio_vecs.  Runs in the caller or in a worker.
 */
int dml_read_batch(struct dml_load *load, unsigned long first, unsigned long nr,
		   u64 position, u64 length, u64 *done, u64 *vmap_ns)
{
	struct page **pages = load->buffer->pages + first;
	u64 size = (u64)nr << PAGE_SHIFT;
	struct dml_target target = {};
	struct dml_read read = {
		.file = load->file, .target = &target, .position = position, .length = length,
		.chunk = load->arg->chunk, .align = load->align, .stop = &load->stop,
	};
	void *vaddr = NULL;
	u64 start;
	int ret;

	if (load->arg->flags & DMATRACE_LOADER_ALLOC_VMAP) {
		start = ktime_get_ns();
		vaddr = dmatrace_loader_vmap(pages, nr);
		*vmap_ns += ktime_get_ns() - start;
		if (!vaddr)
			return -ENOMEM;
		dml_target_vaddr(&target, vaddr, size);
	} else {
		ret = dml_target_pages(&target, pages, size, load->arg->chunk);
		if (ret)
			return ret;
	}
	ret = dmatrace_loader_read(&read);
	*done = read.done;
	dml_target_release(&target);
	if (vaddr) {
		start = ktime_get_ns();
		dmatrace_loader_vunmap(vaddr, size);
		*vmap_ns += ktime_get_ns() - start;
	}
	return ret;
}

static int dml_read_sync(struct dml_load *load)
{
	struct dmatrace_loader_alloc_read *arg = load->arg;
	struct dml_buffer *buffer = load->buffer;
	u64 start = ktime_get_ns();
	int ret;

	ret = dmatrace_loader_alloc(buffer, buffer->nr_pages);
	arg->alloc_ns = ktime_get_ns() - start;
	if (ret)
		return ret;
	start = ktime_get_ns();
	ret = dml_read_batch(load, 0, buffer->nr_pages, arg->file_offset, arg->length,
			     &arg->bytes, &arg->vmap_ns);
	arg->read_ns = ktime_get_ns() - start - arg->vmap_ns;
	arg->batches = 1;
	return ret;
}

static int dml_load_file(struct dml_load *load, struct dma_buf **out)
{
	struct dmatrace_loader_alloc_read *arg = load->arg;
	u64 start;
	int ret;

	load->buffer = dml_buffer_create(arg->length,
					 arg->flags & DMATRACE_LOADER_ALLOC_NOZERO ? 0 : __GFP_ZERO,
					 arg->flags & DMATRACE_LOADER_MMAP_FLAGS);
	if (IS_ERR(load->buffer))
		return PTR_ERR(load->buffer);
	arg->buffer_length = (u64)load->buffer->nr_pages << PAGE_SHIFT;
	ret = arg->flags & DMATRACE_LOADER_ALLOC_GATHER ? dml_gather(load) : dml_read_sync(load);
	if (ret)
		goto free;
	/*
	 * Whatever was not read becomes 0, even in pages that were allocated
	 * zeroed: a file that changes its size meanwhile may have left traces.
	 */
	start = ktime_get_ns();
	ret = dmatrace_loader_zero(load->buffer, arg->bytes);
	arg->zero_ns = ktime_get_ns() - start;
	if (ret)
		goto free;
	*out = dmatrace_loader_export(load->buffer, arg->fd_flags);
	ret = PTR_ERR_OR_ZERO(*out);
	if (!ret)
		return 0;
free:
	dml_buffer_free(load->buffer);
	return ret;
}

static int dml_check_gather(struct dmatrace_loader_alloc_read *arg)
{
	if (!(arg->flags & DMATRACE_LOADER_ALLOC_GATHER))
		return arg->gather || arg->jobs ? -EINVAL : 0;
	if (!arg->gather)
		arg->gather = DMATRACE_LOADER_DEFAULT_GATHER;
	if (!arg->jobs)
		arg->jobs = 1;
	if (arg->gather < DMATRACE_LOADER_MIN_GATHER || arg->gather > DMATRACE_LOADER_MAX_GATHER ||
	    !PAGE_ALIGNED(arg->gather) || arg->jobs > DMATRACE_LOADER_MAX_JOBS)
		return -EINVAL;
	return 0;
}

static int dml_check_alloc_read(struct dmatrace_loader_alloc_read *arg)
{
	int ret;

	if (arg->flags & ~DMATRACE_LOADER_ALLOC_FLAGS ||
	    memchr_inv(arg->reserved, 0, sizeof(arg->reserved)))
		return -EINVAL;
	ret = dml_check_export(arg->flags & DMATRACE_LOADER_MMAP_FLAGS, arg->fd_flags);
	if (!ret)
		ret = dml_check_chunk(&arg->chunk);
	return ret ?: dml_check_gather(arg);
}

long dml_ioctl_alloc_read(struct dmatrace_loader_alloc_read *arg, struct dma_buf **out)
{
	struct dml_load load = { .arg = arg };
	u64 start = ktime_get_ns();
	u64 size;
	int ret;

	arg->batches = 0;
	arg->buffer_length = 0;
	arg->bytes = 0;
	arg->alloc_ns = 0;
	arg->vmap_ns = 0;
	arg->read_ns = 0;
	arg->zero_ns = 0;
	arg->overlap_ns = 0;
	arg->wait_ns = 0;
	arg->total_ns = 0;
	ret = dml_check_alloc_read(arg);
	if (ret)
		return ret;
	ret = dml_file_get(arg->file_fd, arg->flags & DMATRACE_LOADER_ALLOC_DIRECT, &load.file,
			   &load.align);
	if (ret)
		return ret;
	ret = -EOPNOTSUPP;
	if (load.align && arg->flags & DMATRACE_LOADER_ALLOC_VMAP && !DML_KVEC_DIRECT)
		goto put;
	ret = -EINVAL;
	size = dml_file_size(load.file);
	if (arg->file_offset >= size)
		goto put;
	if (!arg->length)
		arg->length = size - arg->file_offset;
	ret = dml_check_range(load.file, arg->file_offset, arg->length, arg->chunk | arg->gather,
			      load.align);
	if (!ret)
		ret = dml_load_file(&load, out);
put:
	fput(load.file);
	arg->total_ns = ktime_get_ns() - start;
	return ret;
}
