// SPDX-License-Identifier: GPL-2.0-only
/*
 * Our own exporter: buffers of alloc.c as dma-bufs, with a choice of mmap().
 */
#include <linux/dma-mapping.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "loader.h"

/* Pages mapped at once, between looks at pending signals. */
#define DML_INSERT_BATCH	4096UL

struct dml_attachment {
	struct device *device;
	struct sg_table table;
	struct list_head list;
	bool mapped;
};

static int dml_attach(struct dma_buf *dmabuf, struct dma_buf_attachment *attachment)
{
	struct dml_buffer *buffer = dmabuf->priv;
	struct dml_attachment *own = kzalloc(sizeof(*own), GFP_KERNEL_ACCOUNT);
	int ret;

	if (!own)
		return -ENOMEM;
	ret = sg_alloc_table_from_pages(&own->table, buffer->pages, buffer->nr_pages, 0,
					dmabuf->size, GFP_KERNEL_ACCOUNT);
	if (ret) {
		kfree(own);
		return ret;
	}
	own->device = attachment->dev;
	attachment->priv = own;
	mutex_lock(&buffer->lock);
	list_add(&own->list, &buffer->attachments);
	mutex_unlock(&buffer->lock);
	return 0;
}

static void dml_detach(struct dma_buf *dmabuf, struct dma_buf_attachment *attachment)
{
	struct dml_buffer *buffer = dmabuf->priv;
	struct dml_attachment *own = attachment->priv;

	mutex_lock(&buffer->lock);
	list_del(&own->list);
	mutex_unlock(&buffer->lock);
	sg_free_table(&own->table);
	kfree(own);
}

static struct sg_table *dml_map_dma_buf(struct dma_buf_attachment *attachment,
					enum dma_data_direction direction)
{
	struct dml_buffer *buffer = attachment->dmabuf->priv;
	struct dml_attachment *own = attachment->priv;
	int ret;

	/* With the lock, because begin and end of CPU access sync what is mapped. */
	mutex_lock(&buffer->lock);
	ret = dma_map_sgtable(attachment->dev, &own->table, direction, 0);
	own->mapped = !ret;
	mutex_unlock(&buffer->lock);
	return ret ? ERR_PTR(ret) : &own->table;
}

static void dml_unmap_dma_buf(struct dma_buf_attachment *attachment, struct sg_table *table,
			      enum dma_data_direction direction)
{
	struct dml_buffer *buffer = attachment->dmabuf->priv;
	struct dml_attachment *own = attachment->priv;

	mutex_lock(&buffer->lock);
	own->mapped = false;
	dma_unmap_sgtable(attachment->dev, table, direction, 0);
	mutex_unlock(&buffer->lock);
}

static int dml_begin_cpu_access(struct dma_buf *dmabuf, enum dma_data_direction direction)
{
	struct dml_buffer *buffer = dmabuf->priv;
	struct dml_attachment *own;

	mutex_lock(&buffer->lock);
	if (buffer->vmaps)
		invalidate_kernel_vmap_range(buffer->vaddr, dmabuf->size);
	list_for_each_entry(own, &buffer->attachments, list)
		if (own->mapped)
			dma_sync_sgtable_for_cpu(own->device, &own->table, direction);
	mutex_unlock(&buffer->lock);
	return 0;
}

static int dml_end_cpu_access(struct dma_buf *dmabuf, enum dma_data_direction direction)
{
	struct dml_buffer *buffer = dmabuf->priv;
	struct dml_attachment *own;

	mutex_lock(&buffer->lock);
	if (buffer->vmaps)
		flush_kernel_vmap_range(buffer->vaddr, dmabuf->size);
	list_for_each_entry(own, &buffer->attachments, list)
		if (own->mapped)
			dma_sync_sgtable_for_device(own->device, &own->table, direction);
	mutex_unlock(&buffer->lock);
	return 0;
}

static int dml_vmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	struct dml_buffer *buffer = dmabuf->priv;
	int ret = 0;

	mutex_lock(&buffer->lock);
	if (!buffer->vmaps)
		buffer->vaddr = vmap(buffer->pages, buffer->nr_pages, VM_MAP, PAGE_KERNEL);
	if (buffer->vaddr) {
		buffer->vmaps++;
		iosys_map_set_vaddr(map, buffer->vaddr);
	} else {
		ret = -ENOMEM;
	}
	mutex_unlock(&buffer->lock);
	return ret;
}

static void dml_vunmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	struct dml_buffer *buffer = dmabuf->priv;

	mutex_lock(&buffer->lock);
	if (!--buffer->vmaps) {
		vunmap(buffer->vaddr);
		buffer->vaddr = NULL;
	}
	mutex_unlock(&buffer->lock);
	iosys_map_clear(map);
}

static void dml_set_flags(struct vm_area_struct *vma, unsigned long flags)
{
#ifdef HAVE_VM_FLAGS_SET
	vm_flags_set(vma, flags);
#else
	vma->vm_flags |= flags;
#endif
}

/* A page that MADV_DONTNEED took out of an MMAP_INSERT mapping comes back here. */
static vm_fault_t dml_fault(struct vm_fault *vmf)
{
	struct dml_buffer *buffer = vmf->vma->vm_private_data;

	if (vmf->pgoff >= buffer->nr_pages)
		return VM_FAULT_SIGBUS;
	vmf->page = buffer->pages[vmf->pgoff];
	get_page(vmf->page);
	return 0;
}

static const struct vm_operations_struct dml_vm_ops = {
	.fault = dml_fault,
};

static int dml_mmap_insert(struct dml_buffer *buffer, struct vm_area_struct *vma)
{
	unsigned long addr = vma->vm_start;
	struct page **pages = buffer->pages + vma->vm_pgoff;

	vma->vm_ops = &dml_vm_ops;
	vma->vm_private_data = buffer;
	while (addr < vma->vm_end) {
		unsigned long wanted = min(vma_pages(vma) - (pages - buffer->pages - vma->vm_pgoff),
					   DML_INSERT_BATCH);
		unsigned long left = wanted;
		int ret;

		if (fatal_signal_pending(current))
			return -EINTR;
		ret = vm_insert_pages(vma, addr, pages, &left);
		if (ret)
			return ret;
		pages += wanted;
		addr += wanted << PAGE_SHIFT;
		cond_resched();
	}
	return 0;
}

static int dml_mmap_pfn(struct dml_buffer *buffer, struct vm_area_struct *vma)
{
	unsigned long addr, i = vma->vm_pgoff;

	for (addr = vma->vm_start; addr < vma->vm_end; addr += PAGE_SIZE, i++) {
		int ret;

		if (fatal_signal_pending(current))
			return -EINTR;
		ret = remap_pfn_range(vma, addr, page_to_pfn(buffer->pages[i]), PAGE_SIZE,
				      vma->vm_page_prot);
		if (ret)
			return ret;
		cond_resched();
	}
	return 0;
}

/**
 * dmatrace_loader_mmap - map a buffer into a process
 * @dmabuf:	the buffer; dma_buf_mmap_internal() has checked the range
 * @vma:	where to
 *
 * Return: 0, -EINVAL for a private mapping, -EINTR when killed, or -ENOMEM.
 */
static noinline __noclone int dmatrace_loader_mmap(struct dma_buf *dmabuf,
						   struct vm_area_struct *vma)
{
	struct dml_buffer *buffer = dmabuf->priv;

	/* A private copy would not be the buffer.  (A read-only fd's is VM_MAYSHARE.) */
	if (!(vma->vm_flags & (VM_SHARED | VM_MAYSHARE)))
		return -EINVAL;
	dml_set_flags(vma, VM_DONTEXPAND | VM_DONTDUMP);
	if (buffer->mmap_flags & DMATRACE_LOADER_MMAP_INSERT)
		return dml_mmap_insert(buffer, vma);
	return dml_mmap_pfn(buffer, vma);
}

static void dml_release(struct dma_buf *dmabuf)
{
	dml_buffer_free(dmabuf->priv);
}

static const struct dma_buf_ops dml_dma_buf_ops = {
	.attach = dml_attach,
	.detach = dml_detach,
	.map_dma_buf = dml_map_dma_buf,
	.unmap_dma_buf = dml_unmap_dma_buf,
	.begin_cpu_access = dml_begin_cpu_access,
	.end_cpu_access = dml_end_cpu_access,
	.mmap = dmatrace_loader_mmap,
	.vmap = dml_vmap,
	.vunmap = dml_vunmap,
	.release = dml_release,
};

/* The buffer behind a dma-buf of ours, NULL for others. */
struct dml_buffer *dml_buffer_of(struct dma_buf *dmabuf)
{
	return dmabuf->ops == &dml_dma_buf_ops ? dmabuf->priv : NULL;
}

/**
 * dmatrace_loader_export - make a dma-buf of a buffer
 * @buffer:	the buffer; the dma-buf's from here on
 * @fd_flags:	access mode
 *
 * Return: the dma-buf, or ERR_PTR(), and then the buffer is still the caller's.
 */
noinline __noclone struct dma_buf *dmatrace_loader_export(struct dml_buffer *buffer, u32 fd_flags)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);

	info.exp_name = DMATRACE_LOADER_EXPORTER;
	info.ops = &dml_dma_buf_ops;
	info.size = (size_t)buffer->nr_pages << PAGE_SHIFT;
	info.flags = fd_flags;
	info.priv = buffer;
	return dma_buf_export(&info);
}

/* EINVAL for unknown flags, EOPNOTSUPP for what no module can do. */
int dml_check_export(u32 mmap_flags, u32 fd_flags)
{
	if (fd_flags & ~(u32)(O_CLOEXEC | O_ACCMODE) || (fd_flags & O_ACCMODE) == O_ACCMODE)
		return -EINVAL;
	if (mmap_flags == DMATRACE_LOADER_MMAP_FLAGS)
		return -EINVAL;
	return mmap_flags & DMATRACE_LOADER_MMAP_INSERT_NO_RSS ? -EOPNOTSUPP : 0;
}

long dml_ioctl_alloc(struct dmatrace_loader_alloc *arg, struct dma_buf **out)
{
	u64 start = ktime_get_ns();
	struct dml_buffer *buffer;
	int ret;

	arg->alloc_ns = 0;
	arg->total_ns = 0;
	if (arg->flags & ~DMATRACE_LOADER_MMAP_FLAGS || arg->reserved ||
	    memchr_inv(arg->reserved2, 0, sizeof(arg->reserved2)))
		return -EINVAL;
	ret = dml_check_export(arg->flags, arg->fd_flags);
	if (ret)
		return ret;
	buffer = dml_buffer_create(arg->length, __GFP_ZERO, arg->flags);
	if (IS_ERR(buffer))
		return PTR_ERR(buffer);
	ret = dmatrace_loader_alloc(buffer, buffer->nr_pages);
	arg->alloc_ns = ktime_get_ns() - start;
	if (ret)
		goto free;
	*out = dmatrace_loader_export(buffer, arg->fd_flags);
	ret = PTR_ERR_OR_ZERO(*out);
	if (ret)
		goto free;
	arg->total_ns = ktime_get_ns() - start;
	return 0;
free:
	dml_buffer_free(buffer);
	arg->total_ns = ktime_get_ns() - start;
	return ret;
}
