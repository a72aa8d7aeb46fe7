// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pages of our own buffers, in the orders that the system heap takes.
 */
#include <linux/highmem.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/page_counter.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "loader.h"

/* As drivers/dma-buf/heaps/system_heap.c: 1 MiB, 64 KiB and 4 KiB. */
static const unsigned int dml_orders[] = { 8, 4, 0 };

/*
 * Large orders are taken if they are there; single pages are worth reclaiming
 * for, but not worth an OOM kill (__GFP_RETRY_MAYFAIL): the caller gets ENOMEM.
 */
#define DML_GFP		(GFP_HIGHUSER | __GFP_ACCOUNT)
#define DML_GFP_SINGLE	(DML_GFP | __GFP_RETRY_MAYFAIL | __GFP_NOWARN)
#define DML_GFP_LARGE	(((DML_GFP | __GFP_NOWARN | __GFP_NORETRY) & ~__GFP_RECLAIM) | __GFP_COMP)

/* The largest buffer: what the machine has, in bytes. */
u64 dml_max_length(void)
{
	u64 most = min_t(u64, DML_MAX_LENGTH, SIZE_MAX & PAGE_MASK);

	return min_t(u64, (u64)totalram_pages() << PAGE_SHIFT, most);
}

/*
 * Whether the caller's memory cgroups are large enough for @pages.  If not, it is
 * better said at once: a buffer that fills its cgroup to the last page leaves none
 * for the page cache of its own workers, which the cgroup's OOM killer is run for.
 */
static bool dml_cgroup_holds(unsigned long pages)
{
	bool holds = true;
#ifdef CONFIG_MEMCG
	struct mem_cgroup *memcg = get_mem_cgroup_from_mm(current->mm);
	struct page_counter *counter = memcg ? &memcg->memory : NULL;

	for (; counter; counter = counter->parent)
		holds = holds && pages <= READ_ONCE(counter->max);
	mem_cgroup_put(memcg);
#endif
	return holds;
}

/* A buffer without pages, as ERR_PTR: EINVAL for sizes that cannot be, ENOMEM. */
struct dml_buffer *dml_buffer_create(u64 length, gfp_t zero, u32 mmap_flags)
{
	struct dml_buffer *buffer;

	if (!length || length > dml_max_length())
		return ERR_PTR(-EINVAL);
	/* Refused at once, rather than after pushing out everything else. */
	if ((long)(PAGE_ALIGN(length) >> PAGE_SHIFT) > si_mem_available() ||
	    !dml_cgroup_holds(PAGE_ALIGN(length) >> PAGE_SHIFT))
		return ERR_PTR(-ENOMEM);
	buffer = kzalloc(sizeof(*buffer), GFP_KERNEL_ACCOUNT);
	if (!buffer)
		return ERR_PTR(-ENOMEM);
	buffer->nr_pages = PAGE_ALIGN(length) >> PAGE_SHIFT;
	buffer->pages = kvcalloc(buffer->nr_pages, sizeof(*buffer->pages), DML_GFP_TABLE);
	if (!buffer->pages) {
		kfree(buffer);
		return ERR_PTR(-ENOMEM);
	}
	buffer->max_order = dml_orders[0];
	buffer->gfp = zero;
	buffer->mmap_flags = mmap_flags;
	mutex_init(&buffer->lock);
	INIT_LIST_HEAD(&buffer->attachments);
	return buffer;
}

void dml_buffer_free(struct dml_buffer *buffer)
{
	unsigned long i = 0;

	if (!buffer)
		return;
	while (i < buffer->nr_alloc) {
		unsigned int order = compound_order(buffer->pages[i]);

		__free_pages(buffer->pages[i], order);
		i += 1UL << order;
		cond_resched();
	}
	kvfree(buffer->pages);
	kfree(buffer);
}

static struct page *dml_alloc_largest(struct dml_buffer *buffer, unsigned long wanted)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(dml_orders); i++) {
		unsigned int order = dml_orders[i];
		struct page *page;

		if (order > buffer->max_order || wanted < 1UL << order)
			continue;
		page = alloc_pages(buffer->gfp | (order ? DML_GFP_LARGE : DML_GFP_SINGLE), order);
		if (page)
			return page;
		/* Once a large order has failed it is not tried again, as in the heap. */
		if (order)
			buffer->max_order = dml_orders[i + 1];
	}
	return NULL;
}

/**
 * dmatrace_loader_alloc - allocate a buffer's pages
 * @buffer:	the buffer
 * @until:	how many pages it shall have then
 *
 * Return: 0, -ENOMEM, or -EINTR when the caller was killed.
 */
noinline __noclone int dmatrace_loader_alloc(struct dml_buffer *buffer, unsigned long until)
{
	while (buffer->nr_alloc < until) {
		struct page *page;
		unsigned int i, nr;

		if (fatal_signal_pending(current))
			return -EINTR;
		page = dml_alloc_largest(buffer, until - buffer->nr_alloc);
		if (!page)
			return -ENOMEM;
		nr = 1U << compound_order(page);
		for (i = 0; i < nr; i++)
			buffer->pages[buffer->nr_alloc++] = page + i;
		cond_resched();
	}
	return 0;
}

/**
 * dmatrace_loader_zero - zero the end of a buffer
 * @buffer:	the buffer, with all its pages
 * @from:	first byte to zero
 *
 * Return: 0, or -EINTR when the caller was killed.
 */
noinline __noclone int dmatrace_loader_zero(struct dml_buffer *buffer, u64 from)
{
	unsigned long i = from >> PAGE_SHIFT;
	unsigned int within = offset_in_page(from);

	if (within) {
		memzero_page(buffer->pages[i], within, PAGE_SIZE - within);
		i++;
	}
	for (; i < buffer->nr_pages; i++) {
		if (fatal_signal_pending(current))
			return -EINTR;
		clear_highpage(buffer->pages[i]);
		cond_resched();
	}
	return 0;
}

/**
 * dmatrace_loader_vmap - map pages one after the other
 * @pages:	the pages
 * @nr:		how many
 *
 * Return: the address, or NULL.
 */
noinline __noclone void *dmatrace_loader_vmap(struct page **pages, unsigned int nr)
{
	return vmap(pages, nr, VM_MAP, PAGE_KERNEL);
}

/**
 * dmatrace_loader_vunmap - undo dmatrace_loader_vmap()
 * @vaddr:	its address
 * @length:	bytes of it
 *
 * The pages are used through other mappings from here on, so what is cached
 * under this address goes to memory first.
 */
noinline __noclone void dmatrace_loader_vunmap(void *vaddr, size_t length)
{
	flush_kernel_vmap_range(vaddr, length);
	vunmap(vaddr);
}
