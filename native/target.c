// SPDX-License-Identifier: GPL-2.0-only
/*
 * From a fd to memory that a file system can read into.
 */
#include <linux/dma-resv.h>
#include <linux/highmem.h>
#include <linux/iosys-map.h>
#include <linux/mm.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "loader.h"

/*
 * An sg_table's pages are the exporter's own business; of these two it is known
 * that they are ordinary memory which lives as long as the buffer.  Buffers of
 * other exporters are reached through vmap(), which is meant for it.
 */
static const char * const dml_sg_exporters[] = { "system", "udmabuf" };

static bool dml_has_pages(const struct dma_buf *dmabuf)
{
	unsigned int i;

	/* With DMABUF_DEBUG importers see a table whose pages are hidden. */
	if (IS_ENABLED(CONFIG_DMABUF_DEBUG))
		return false;
	for (i = 0; i < ARRAY_SIZE(dml_sg_exporters); i++)
		if (!strcmp(dmabuf->exp_name, dml_sg_exporters[i]))
			return true;
	return false;
}

/* A buffer that a device may be using is not to be changed under its hands. */
static int dml_check_idle(struct dma_buf *dmabuf)
{
	struct dma_buf_attachment *attach;
	int ret = 0;

	/* Not interruptible, as in dma_buf_attach(): no holder keeps it for long. */
	dma_resv_lock(dmabuf->resv, NULL);
	list_for_each_entry(attach, &dmabuf->attachments, node)
		if (attach->dev != dml_device)
			ret = -EBUSY;
	dma_resv_unlock(dmabuf->resv);
	return ret;
}

/*
 * Where there is but one name, it is for callers without the reservation lock.
 * commit 19d6634d8789 "dma-buf: Add unlocked variant of attachment-mapping functions",
 * which 6.1's stable series has too, commit 56e5abba8c3e "dma-buf: Add unlocked
 * variant of vmapping functions", which it has not.
 */
#ifndef HAVE_MAP_UNLOCKED
#define dma_buf_map_attachment_unlocked dma_buf_map_attachment
#define dma_buf_unmap_attachment_unlocked dma_buf_unmap_attachment
#endif
#ifndef HAVE_VMAP_UNLOCKED
#define dma_buf_vmap_unlocked dma_buf_vmap
#define dma_buf_vunmap_unlocked dma_buf_vunmap
#endif

static int dml_map_sg(struct dml_target *target)
{
	int ret;

	target->kind = DML_SG;
	target->attach = dma_buf_attach(target->dmabuf, dml_device);
	if (IS_ERR(target->attach))
		return PTR_ERR(target->attach);
	/*
	 * TO_DEVICE: our device only looks.  Where the mapping is bounced
	 * (swiotlb=force), unmapping must not copy old content back.
	 */
	target->sgt = dma_buf_map_attachment_unlocked(target->attach, DMA_TO_DEVICE);
	if (IS_ERR(target->sgt)) {
		ret = PTR_ERR(target->sgt);
		dma_buf_detach(target->dmabuf, target->attach);
		return ret;
	}
	target->sg = target->sgt->sgl;
	return 0;
}

/*
 * Two first calls at once of udmabuf's begin_cpu_access leak a scatter list
 * (begin_cpu_udmabuf() fills in ubuf->sg without a lock), so ours take turns.
 */
static DEFINE_MUTEX(dml_begin_lock);

int dml_begin_access(struct dma_buf *dmabuf)
{
	int ret;

	if (strcmp(dmabuf->exp_name, "udmabuf"))
		return dma_buf_begin_cpu_access(dmabuf, DMA_BIDIRECTIONAL);
	if (mutex_lock_killable(&dml_begin_lock))
		return -EINTR;
	ret = dma_buf_begin_cpu_access(dmabuf, DMA_BIDIRECTIONAL);
	mutex_unlock(&dml_begin_lock);
	return ret;
}

static int dml_map_vaddr(struct dml_target *target)
{
	int ret = dma_buf_vmap_unlocked(target->dmabuf, &target->map);

	if (ret)
		return ret == -EINVAL ? -EOPNOTSUPP : ret;
	if (target->map.is_iomem) {
		dma_buf_vunmap_unlocked(target->dmabuf, &target->map);
		return -EOPNOTSUPP;
	}
	dml_target_vaddr(target, target->map.vaddr, target->size);
	return 0;
}

static void dml_unmap(struct dml_target *target)
{
	if (target->kind == DML_SG) {
		dma_buf_unmap_attachment_unlocked(target->attach, target->sgt, DMA_TO_DEVICE);
		dma_buf_detach(target->dmabuf, target->attach);
	} else if (target->kind == DML_VADDR) {
		dma_buf_vunmap_unlocked(target->dmabuf, &target->map);
	}
}

static int dml_map_dmabuf(struct dml_target *target, u64 chunk)
{
	struct dma_buf *dmabuf = target->dmabuf;
	struct dml_buffer *own = dml_buffer_of(dmabuf);
	int ret;

	ret = dml_may_write(dmabuf->file, dmabuf->size);
	if (ret)
		return ret;
	target->size = dmabuf->size;
	ret = dml_check_idle(dmabuf);
	if (ret)
		return ret;
	if (own)
		ret = dml_target_pages(target, own->pages, dmabuf->size, chunk);
	else if (dml_has_pages(dmabuf))
		ret = dml_target_room(target, chunk) ?: dml_map_sg(target);
	else
		ret = dml_map_vaddr(target);
	if (ret)
		goto release;
	ret = dml_begin_access(dmabuf);
	if (!ret)
		return 0;
	dml_unmap(target);
release:
	dml_target_release(target);
	return ret;
}

/* EBADF: not open for writing; what a security module says to write(2) of it. */
int dml_may_write(struct file *file, u64 size)
{
	if (!(file->f_mode & FMODE_WRITE))
		return -EBADF;
#ifdef HAVE_RW_VERIFY_AREA
	loff_t position = 0;

	return rw_verify_area(WRITE, file, &position, min_t(u64, size, MAX_RW_COUNT));
#else
	return 0;
#endif
}

/**
 * dmatrace_loader_map - get at the memory behind a fd
 * @target:	filled in
 * @fd:		a dma-buf, or a memfd
 * @memfd:	whether a memfd will do
 * @chunk:	bytes of the largest read
 *
 * Return: 0; -EBADF: not open, or not for writing; -EINVAL: neither dma-buf nor
 * memfd; -EBUSY: in use by a device; -EPERM: a sealed memfd; -EOPNOTSUPP: no
 * memory that the CPU may write to, or no memfds on this kernel; or -ENOMEM.
 */
noinline __noclone int dmatrace_loader_map(struct dml_target *target, int fd, bool memfd, u64 chunk)
{
	int ret;

	memset(target, 0, sizeof(*target));
	target->dmabuf = dma_buf_get(fd);
	if (IS_ERR(target->dmabuf)) {
		ret = PTR_ERR(target->dmabuf);
		target->dmabuf = NULL;
		return ret == -EINVAL && memfd ? dml_memfd_get(target, fd, chunk) : ret;
	}
	ret = dml_map_dmabuf(target, chunk);
	if (ret)
		dma_buf_put(target->dmabuf);
	return ret;
}

/**
 * dmatrace_loader_unmap - undo dmatrace_loader_map()
 * @target:	what it filled in
 */
noinline __noclone void dmatrace_loader_unmap(struct dml_target *target)
{
	if (target->dmabuf) {
		if (target->kind == DML_VADDR)
			flush_kernel_vmap_range(target->vaddr, target->size);
		dma_buf_end_cpu_access(target->dmabuf, DMA_BIDIRECTIONAL);
		dml_unmap(target);
		dma_buf_put(target->dmabuf);
	} else {
		dml_memfd_put(target);
	}
	dml_target_release(target);
}

/*
 * Whether all of a mapping is memory that a disk may be told to write to: a
 * mapping of an exporter that we do not know may lack struct pages.
 */
bool dml_vaddr_is_memory(const struct dml_target *target)
{
	const char *at;

	for (at = target->vaddr; at < (char *)target->vaddr + target->size; at += PAGE_SIZE) {
		if (!is_vmalloc_addr(at) ? !virt_addr_valid(at) : !pfn_valid(vmalloc_to_pfn(at)))
			return false;
		cond_resched();
	}
	return true;
}

/* Room for the segments of a read of @chunk bytes. */
int dml_target_room(struct dml_target *target, u64 chunk)
{
	/* One more: a read may begin within a page. */
	u64 pages = (min(chunk, target->size) >> PAGE_SHIFT) + 2;

	target->max_bv = min_t(u64, pages, DML_MAX_BVECS);
	target->bv = kvmalloc_array(target->max_bv, sizeof(*target->bv), DML_GFP_TABLE);
	return target->bv ? 0 : -ENOMEM;
}

int dml_target_pages(struct dml_target *target, struct page **pages, u64 size, u64 chunk)
{
	target->kind = DML_PAGES;
	target->pages = pages;
	target->size = size;
	return dml_target_room(target, chunk);
}

void dml_target_vaddr(struct dml_target *target, void *vaddr, u64 size)
{
	target->kind = DML_VADDR;
	target->vaddr = vaddr;
	target->size = size;
}

void dml_target_release(struct dml_target *target)
{
	kvfree(target->bv);
	target->bv = NULL;
}

/* Adds a segment, or makes the last one longer; false when there is no room. */
bool dml_bvec_add(struct bio_vec *bv, unsigned int *nr, unsigned int max,
		  struct page *page, unsigned int length, unsigned int offset)
{
	if (*nr) {
		struct bio_vec *last = &bv[*nr - 1];
		unsigned long end = last->bv_offset + last->bv_len;
		struct page *next = last->bv_page + (end >> PAGE_SHIFT);

		/* struct pages must be neighbours too: not so across sections. */
		if (!offset && PAGE_ALIGNED(end) && page == next &&
		    page_to_pfn(page) == page_to_pfn(last->bv_page) + (end >> PAGE_SHIFT)) {
			last->bv_len += length;
			return true;
		}
	}
	if (*nr == max)
		return false;
	bv[*nr].bv_page = page;
	bv[*nr].bv_len = length;
	bv[*nr].bv_offset = offset;
	++*nr;
	return true;
}

static size_t dml_begin_pages(struct dml_target *target, u64 offset, size_t length,
			      unsigned int *nr)
{
	size_t bytes = 0;

	while (bytes < length) {
		unsigned int within = offset_in_page(offset + bytes);
		unsigned int part = min_t(size_t, PAGE_SIZE - within, length - bytes);
		struct page *page = target->pages[(offset + bytes) >> PAGE_SHIFT];

		if (!dml_bvec_add(target->bv, nr, target->max_bv, page, part, within))
			break;
		bytes += part;
	}
	return bytes;
}

static size_t dml_begin_sg(struct dml_target *target, u64 offset, size_t length,
			   unsigned int *nr)
{
	size_t bytes = 0;

	if (offset < target->sg_start) {
		target->sg = target->sgt->sgl;
		target->sg_start = 0;
	}
	while (bytes < length && target->sg) {
		u64 within = offset + bytes - target->sg_start;
		unsigned int part;

		if (within >= target->sg->length) {
			target->sg_start += target->sg->length;
			target->sg = sg_next(target->sg);
			continue;
		}
		part = min_t(u64, target->sg->length - within, length - bytes);
		within += target->sg->offset;
		if (!dml_bvec_add(target->bv, nr, target->max_bv,
				  sg_page(target->sg) + (within >> PAGE_SHIFT), part,
				  offset_in_page(within)))
			break;
		bytes += part;
	}
	return bytes;
}

/*
 * Makes @iter of the memory from @offset on: @length bytes, or as many as fit
 * one read.  Undone by dml_target_end().
 */
int dml_target_begin(struct dml_target *target, u64 offset, size_t length,
		     struct iov_iter *iter)
{
	unsigned int nr = 0;
	size_t bytes = 0;
	int ret;

	switch (target->kind) {
	case DML_VADDR:
		target->kvec.iov_base = target->vaddr + offset;
		target->kvec.iov_len = length;
		iov_iter_kvec(iter, ITER_DEST, &target->kvec, 1, length);
		return 0;
	case DML_PAGES:
		bytes = dml_begin_pages(target, offset, length, &nr);
		break;
	case DML_SG:
		bytes = dml_begin_sg(target, offset, length, &nr);
		break;
	case DML_MEMFD:
		ret = dml_memfd_begin(target, offset, length, &nr, &bytes);
		if (ret)
			return ret;
		break;
	}
	/* A table shorter than its buffer would be the exporter's fault. */
	if (!bytes)
		return -EIO;
	iov_iter_bvec(iter, ITER_DEST, target->bv, nr, bytes);
	return 0;
}

void dml_target_end(struct dml_target *target)
{
	if (target->kind == DML_MEMFD)
		dml_memfd_end(target);
}
