/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared by the files of dmatrace_loader.
 *
 * Functions called dmatrace_loader_* are there for tracers: never inlined or
 * cloned, one per phase of a load, on the thread that does the work.  All
 * others are called dml_*.
 */
#ifndef DMATRACE_LOADER_INTERNAL_H
#define DMATRACE_LOADER_INTERNAL_H

#include <linux/bvec.h>
#include <linux/dma-buf.h>
#include <linux/fs.h>
#include <linux/iosys-map.h>
#include <linux/ktime.h>
#include <linux/mutex.h>
#include <linux/sizes.h>
#include <linux/types.h>
#include <linux/uio.h>
#include <linux/workqueue.h>

#include <dmatrace_loader.h>

/* bio.bi_vcnt is 16 bits wide; a read takes no more segments than that holds. */
#define DML_MAX_BVECS	32768
/* kvcalloc() warns above INT_MAX: of page pointers this many bytes' worth. */
#define DML_MAX_LENGTH	(512ULL << 30)
/* Larger blocks than any file system has; the last one is read into one of ours. */
#define DML_MAX_ALIGN	SZ_1M
/* Tables that grow with a buffer: reclaim for them, but kill nobody. */
#define DML_GFP_TABLE	(GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL | __GFP_NOWARN)

#ifdef HAVE_KVEC_DIRECT
#define DML_KVEC_DIRECT	true
#else
#define DML_KVEC_DIRECT	false
#endif

/* -- alloc.c ------------------------------------------------------------ */

/**
 * struct dml_buffer - pages, and what the exporter keeps for them
 * @pages:	every page, order 0 or part of a compound page
 * @nr_pages:	how many there are to be
 * @nr_alloc:	how many there are
 * @max_order:	largest order that has not failed yet
 * @gfp:	__GFP_ZERO or 0
 * @mmap_flags:	DMATRACE_LOADER_MMAP_*
 * @lock:	protects the fields below
 * @attachments: &struct dml_attachment of importers
 * @vaddr:	the kernel mapping while @vmaps is not 0
 * @vmaps:	users of @vaddr
 */
struct dml_buffer {
	struct page **pages;
	unsigned long nr_pages;
	unsigned long nr_alloc;
	unsigned int max_order;
	gfp_t gfp;
	u32 mmap_flags;
	struct mutex lock;	/* attachments, vaddr, vmaps */
	struct list_head attachments;
	void *vaddr;
	unsigned int vmaps;
};

struct dml_buffer *dml_buffer_create(u64 length, gfp_t zero, u32 mmap_flags);
void dml_buffer_free(struct dml_buffer *buffer);
u64 dml_max_length(void);
int dmatrace_loader_alloc(struct dml_buffer *buffer, unsigned long until);
int dmatrace_loader_zero(struct dml_buffer *buffer, u64 from);
void *dmatrace_loader_vmap(struct page **pages, unsigned int nr);
void dmatrace_loader_vunmap(void *vaddr, size_t length);

/* -- export.c ----------------------------------------------------------- */

struct dma_buf *dmatrace_loader_export(struct dml_buffer *buffer, u32 fd_flags);
struct dml_buffer *dml_buffer_of(struct dma_buf *dmabuf);
int dml_check_export(u32 mmap_flags, u32 fd_flags);
long dml_ioctl_alloc(struct dmatrace_loader_alloc *arg, struct dma_buf **out);

/* -- target.c, memfd.c -------------------------------------------------- */

enum dml_target_kind { DML_PAGES, DML_SG, DML_VADDR, DML_MEMFD };

/**
 * struct dml_target - memory that a read goes to
 * @kind:	which of the fields below are used
 * @size:	bytes
 * @bv:		room for the segments of one read
 * @max_bv:	how many
 * @pages:	PAGES: all pages
 * @dmabuf:	the dma-buf, if it came from a fd
 * @attach:	SG: our attachment
 * @sgt:	SG: what it maps
 * @sg:		SG: where the last read ended, so that the next need not search
 * @sg_start:	SG: offset of @sg in the buffer
 * @vaddr:	VADDR: the mapping
 * @map:	VADDR: the mapping of a dma-buf
 * @kvec:	VADDR: the one segment of the read under way
 * @memfd:	MEMFD: the file
 * @folios:	MEMFD: what is pinned for the read under way
 * @nr_folios:	MEMFD: how many
 */
struct dml_target {
	enum dml_target_kind kind;
	u64 size;
	struct bio_vec *bv;
	unsigned int max_bv;
	struct page **pages;
	struct dma_buf *dmabuf;
	struct dma_buf_attachment *attach;
	struct sg_table *sgt;
	struct scatterlist *sg;
	u64 sg_start;
	void *vaddr;
	struct iosys_map map;
	struct kvec kvec;
	struct file *memfd;
	struct folio **folios;
	long nr_folios;
};

int dmatrace_loader_map(struct dml_target *target, int fd, bool memfd, u64 chunk);
void dmatrace_loader_unmap(struct dml_target *target);
int dml_target_pages(struct dml_target *target, struct page **pages, u64 size, u64 chunk);
void dml_target_vaddr(struct dml_target *target, void *vaddr, u64 size);
void dml_target_release(struct dml_target *target);
bool dml_vaddr_is_memory(const struct dml_target *target);
int dml_may_write(struct file *file, u64 size);
int dml_begin_access(struct dma_buf *dmabuf);
int dml_target_begin(struct dml_target *target, u64 offset, size_t length,
		     struct iov_iter *iter);
void dml_target_end(struct dml_target *target);
int dml_target_room(struct dml_target *target, u64 chunk);
bool dml_bvec_add(struct bio_vec *bv, unsigned int *nr, unsigned int max,
		  struct page *page, unsigned int length, unsigned int offset);

int dml_memfd_get(struct dml_target *target, int fd, u64 chunk);
void dml_memfd_put(struct dml_target *target);
int dml_memfd_begin(struct dml_target *target, u64 offset, size_t length,
		    unsigned int *nr, size_t *bytes);
void dml_memfd_end(struct dml_target *target);

/* -- read.c ------------------------------------------------------------- */

/**
 * struct dml_read - a read of a file range into a target
 * @file:	the file
 * @target:	where to
 * @position:	first byte in the file
 * @offset:	first byte in the target
 * @length:	bytes
 * @chunk:	bytes of one call
 * @align:	block size of direct reads, 0 for buffered ones
 * @stop:	if not NULL: someone else's wish to end it
 * @done:	bytes read so far
 */
struct dml_read {
	struct file *file;
	struct dml_target *target;
	u64 position;
	u64 offset;
	u64 length;
	u64 chunk;
	u32 align;
	const int *stop;
	u64 done;
};

int dml_file_get(int fd, bool direct, struct file **file, u32 *align);
int dml_check_range(struct file *file, u64 position, u64 length, u64 steps, u32 align);
int dml_check_chunk(u64 *chunk);
u64 dml_file_size(struct file *file);
int dmatrace_loader_read(struct dml_read *read);

/* -- rwfile.c, allocread.c, gather.c, stream.c -------------------------- */

long dml_ioctl_rw_file(struct dmatrace_loader_rw_file *arg);
long dml_ioctl_alloc_read(struct dmatrace_loader_alloc_read *arg, struct dma_buf **out);

/**
 * struct dml_load - an ALLOC_READ under way
 * @arg:	the caller's, checked, with @arg->length resolved
 * @buffer:	the pages; NULL once they are not the caller's to free
 * @file:	the file
 * @align:	as in &struct dml_read
 * @stop:	set when workers are to end
 */
struct dml_load {
	struct dmatrace_loader_alloc_read *arg;
	struct dml_buffer *buffer;
	struct file *file;
	u32 align;
	int stop;
};

/**
 * struct dmatrace_loader_work - a batch that a worker reads
 * @owner_tgid:	process that asked for it, as the first pid namespace counts
 * @owner_tid:	thread that asked for it, likewise
 * @file_offset: first byte in the file
 * @length:	bytes
 * @work:	what the workqueue knows
 * @gather:	the load's workers
 * @first:	first page in the buffer
 * @nr:		pages
 * @alloc_start: when allocating the pages began
 * @alloc_end:	when it ended
 * @read_start:	when the worker began
 * @read_end:	when it ended
 * @vmap_ns:	mapping and unmapping the pages
 * @done:	bytes read
 * @error:	0, or why it ended
 *
 * First argument of dmatrace_loader_gather_work(); these four fields and their
 * offsets (0, 4, 8, 16) are for tracers, which tie a worker to its load.
 */
struct dmatrace_loader_work {
	u32 owner_tgid;
	u32 owner_tid;
	u64 file_offset;
	u64 length;
	struct work_struct work;
	struct dml_gather *gather;
	unsigned long first;
	unsigned long nr;
	u64 alloc_start;
	u64 alloc_end;
	u64 read_start;
	u64 read_end;
	u64 vmap_ns;
	u64 done;
	int error;
};

int dml_read_batch(struct dml_load *load, unsigned long first, unsigned long nr,
		   u64 position, u64 length, u64 *done, u64 *vmap_ns);
int dml_gather_init(void);
void dml_gather_exit(void);
int dml_gather(struct dml_load *load);
void dmatrace_loader_gather_work(struct dmatrace_loader_work *work);
bool dmatrace_loader_gather_wait(struct dml_gather *gather);

long dml_ioctl_stream(struct dmatrace_loader_stream *arg, struct file **out);
ssize_t dmatrace_loader_stream_write(struct kiocb *iocb, struct iov_iter *from);

/* The device that importing takes; it never transfers anything. */
extern struct device *dml_device;

#endif /* DMATRACE_LOADER_INTERNAL_H */
