/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * /dev/dmatrace_loader: the unmerged ways to load a file into a dma-buf, as
 * ioctls of one misc device (mode 0600).
 *
 * Sizes and offsets are bytes, times are nanoseconds of CLOCK_MONOTONIC.
 * Every reserved field must be zero and every unknown flag is refused, both
 * with EINVAL.  Fields marked "out" are written by the kernel, also when the
 * call fails (as far as it got), unless the arguments could not be read.
 * Where 0 stands for a default, the value used comes back.
 *
 * Errors that every call may return:
 *
 *   EBADF       a fd is not open, a file is not open for reading, or a buffer
 *               is not open for writing
 *   EFAULT      the argument is not readable or writable memory
 *   EINVAL      a range, size, alignment, flag or kind of fd is wrong
 *   EINTR       the caller was killed, or a signal came while it waited for a
 *               device's fence on the buffer
 *   ENOMEM      no memory, or the caller's memory cgroup is at its limit
 *   ENOTTY      there is no such ioctl
 *   EOPNOTSUPP  this kernel, buffer or file cannot do it; see
 *               &struct dmatrace_loader_query
 *
 * A security module or a fanotify listener that refuses the read or the write
 * adds errors of its own, mostly EACCES and EPERM.
 *
 * The proposals these calls stand in for:
 *
 *   RW_FILE     wangtao, "[PATCH v2 0/2] dma-buf: Add direct I/O support via
 *               DMA_BUF_IOCTL_RW_FILE",
 *               20250516092148.12778-1-tao.wangtao@honor.com
 *   ALLOC_READ  Huan Yang, "[PATCH v2 0/5] Introduce
 *               DMA_HEAP_ALLOC_AND_READ_FILE heap flag",
 *               20240730075755.10941-1-link@vivo.com
 *   ALLOC       Lei Liu, "[PATCH 0/2] Support direct I/O read and write for
 *               memory allocated by dmabuf", July 2024
 *   STREAM      the splice_write/write_iter of a dma-buf that Huan Yang's
 *               cover letter compares with ("sendfile")
 */
#ifndef _UAPI_DMATRACE_LOADER_H
#define _UAPI_DMATRACE_LOADER_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define DMATRACE_LOADER_VERSION		1
#define DMATRACE_LOADER_DEVICE		"/dev/dmatrace_loader"

/* The exp_name of the buffers this module exports. */
#define DMATRACE_LOADER_EXPORTER	"dmatrace_loader"

#define DMATRACE_LOADER_DEFAULT_CHUNK	0x2000000ULL	/* 32 MiB */
#define DMATRACE_LOADER_MAX_CHUNK	0x40000000ULL	/* 1 GiB */
#define DMATRACE_LOADER_DEFAULT_GATHER	0x8000000ULL	/* 128 MiB */
#define DMATRACE_LOADER_MIN_GATHER	0x100000ULL	/* 1 MiB */
#define DMATRACE_LOADER_MAX_GATHER	0x40000000ULL	/* 1 GiB */
#define DMATRACE_LOADER_MAX_JOBS	16

/* RW_FILE on a memfd (needs memfd_pin_folios()). */
#define DMATRACE_LOADER_FEATURE_MEMFD		0x01ULL
/* RW_FILE and STREAM into the sg_table of system-heap and udmabuf buffers
 * (off where CONFIG_DMABUF_DEBUG hides their pages from importers).
 */
#define DMATRACE_LOADER_FEATURE_SG_TABLE	0x02ULL
/* Direct reads into memory mapped by vmap(): ALLOC_READ with VMAP, and RW_FILE
 * on buffers of other exporters (needs ITER_KVEC direct I/O).
 */
#define DMATRACE_LOADER_FEATURE_VMAP_DIRECT	0x04ULL
/* ALLOC and ALLOC_READ with MMAP_INSERT. */
#define DMATRACE_LOADER_FEATURE_MMAP_INSERT	0x08ULL
/* ALLOC and ALLOC_READ with MMAP_INSERT_NO_RSS.  Never set: a module cannot do
 * it.  vm_insert_pages() counts every page in the mm (inc_mm_counter() in
 * insert_page_into_pte_locked()) and in NR_FILE_MAPPED (folio_add_file_rmap_pte()),
 * unmapping takes both back (zap_present_folio_ptes()), and smaps walks the page
 * table itself; nothing a module may set in the vma turns any of them off, which
 * is why the proposal adds VM_DMABUF_DIO to mm/ and fs/proc/.  A mapping that is
 * not counted is MMAP_PFN; pages of that cannot be pinned, so no direct I/O.
 */
#define DMATRACE_LOADER_FEATURE_MMAP_INSERT_NO_RSS 0x10ULL
/* Gather workers charge page cache and I/O to the caller's cgroups. */
#define DMATRACE_LOADER_FEATURE_CGROUP		0x20ULL

/**
 * struct dmatrace_loader_query - what this build can do on this kernel
 * @version:	out: DMATRACE_LOADER_VERSION
 * @page_size:	out: bytes of a page; buffers are whole pages
 * @features:	out: DMATRACE_LOADER_FEATURE_* that work
 * @missing:	out: DMATRACE_LOADER_FEATURE_* that do not
 * @max_length:	out: largest buffer of ALLOC and ALLOC_READ (EINVAL beyond)
 * @reserved:	zero
 */
struct dmatrace_loader_query {
	__u32 version;
	__u32 page_size;
	__u64 features;
	__u64 missing;
	__u64 max_length;
	__u64 reserved[4];
};

/* Read with O_DIRECT semantics; an O_DIRECT file_fd means the same. */
#define DMATRACE_LOADER_RW_DIRECT	0x001U
#define DMATRACE_LOADER_RW_FLAGS	DMATRACE_LOADER_RW_DIRECT

/**
 * struct dmatrace_loader_rw_file - read a range of a file into a buffer
 * @file_fd:	a regular file or block device, open for reading
 * @buffer_fd:	a dma-buf or memfd, open for writing
 * @flags:	DMATRACE_LOADER_RW_*
 * @reserved:	zero
 * @file_offset: first byte to read
 * @buffer_offset: where it goes; @length bytes must lie in the buffer
 * @length:	bytes to read, not 0
 * @chunk:	bytes of one read call, a multiple of the page size (and of the
 *		file's blocks, for direct reads) up to DMATRACE_LOADER_MAX_CHUNK;
 *		0: DMATRACE_LOADER_DEFAULT_CHUNK.  SIGKILL takes effect between
 *		two reads
 * @bytes:	out: bytes read; less than @length where the file ends
 * @map_ns:	out: getting at the buffer's pages
 * @read_ns:	out: reading (for a memfd with pinning its pages)
 * @total_ns:	out: the whole call
 * @reserved2:	zero
 *
 * Stock system-heap and udmabuf buffers are reached through the pages of their
 * sg_table, this module's own through their pages, a memfd through its pinned
 * folios: no CPU copy where the file system reads directly.  Other exporters'
 * buffers are reached through vmap().
 *
 * Direct: @file_offset and @buffer_offset must be multiples of what
 * statx(STATX_DIOALIGN) says of the file, and @length too unless the range
 * reaches the end of the file; then less than one block is copied.  Nothing
 * beyond @bytes is written, unless the file is cut short meanwhile: then the
 * rest of the chunk may become 0.  File systems may fall back to buffered reads
 * by themselves (tmpfs always does).
 *
 * Errors: EBUSY when a device is attached to the dma-buf; EPERM for a memfd
 * sealed against writing; EIO and others from the file; those of the header.
 */
struct dmatrace_loader_rw_file {
	__s32 file_fd;
	__s32 buffer_fd;
	__u32 flags;
	__u32 reserved;
	__u64 file_offset;
	__u64 buffer_offset;
	__u64 length;
	__u64 chunk;
	__u64 bytes;
	__u64 map_ns;
	__u64 read_ns;
	__u64 total_ns;
	__u64 reserved2[2];
};

/* How a buffer of ALLOC and ALLOC_READ is mapped by mmap(); one of these. */
/* As the system heap does it: remap_pfn_range(), not in RSS, no direct I/O. */
#define DMATRACE_LOADER_MMAP_PFN		0U
/* vm_insert_pages(): counted in RSS, read(O_DIRECT) into it works. */
#define DMATRACE_LOADER_MMAP_INSERT		0x001U
/* The same outside RSS: EOPNOTSUPP, see the feature bit of this name. */
#define DMATRACE_LOADER_MMAP_INSERT_NO_RSS	0x002U
#define DMATRACE_LOADER_MMAP_FLAGS \
	(DMATRACE_LOADER_MMAP_INSERT | DMATRACE_LOADER_MMAP_INSERT_NO_RSS)

/**
 * struct dmatrace_loader_alloc - allocate a zeroed dma-buf
 * @length:	bytes, rounded up to whole pages; not 0
 * @flags:	DMATRACE_LOADER_MMAP_*
 * @fd_flags:	O_CLOEXEC and an access mode, as for DMA_HEAP_IOCTL_ALLOC
 * @fd:		out: the dma-buf
 * @reserved:	zero
 * @alloc_ns:	out: allocating and zeroing pages
 * @total_ns:	out: the whole call
 * @reserved2:	zero
 *
 * Pages come in orders 8, 4 and 0, as the system heap takes them, and are
 * charged to the caller's memory cgroup.  No OOM killer is run for them.
 */
struct dmatrace_loader_alloc {
	__u64 length;
	__u32 flags;
	__u32 fd_flags;
	__s32 fd;
	__u32 reserved;
	__u64 alloc_ns;
	__u64 total_ns;
	__u64 reserved2[2];
};

/* Flags of ALLOC_READ beside DMATRACE_LOADER_MMAP_*. */
/* Read with O_DIRECT semantics; an O_DIRECT file_fd means the same. */
#define DMATRACE_LOADER_ALLOC_DIRECT	0x100U
/* Read through a vmap() of the pages, as the proposal does, not bio_vecs. */
#define DMATRACE_LOADER_ALLOC_VMAP	0x200U
/* Read batches in workers while the next ones are allocated. */
#define DMATRACE_LOADER_ALLOC_GATHER	0x400U
/* Do not ask for zeroed pages: zero only what the file does not fill, before
 * the buffer is exported.  Kernels with init_on_alloc=1 zero all the same.
 */
#define DMATRACE_LOADER_ALLOC_NOZERO	0x800U
#define DMATRACE_LOADER_ALLOC_FLAGS \
	(DMATRACE_LOADER_MMAP_FLAGS | DMATRACE_LOADER_ALLOC_DIRECT | \
	 DMATRACE_LOADER_ALLOC_VMAP | DMATRACE_LOADER_ALLOC_GATHER | \
	 DMATRACE_LOADER_ALLOC_NOZERO)

/**
 * struct dmatrace_loader_alloc_read - allocate a dma-buf with a file in it
 * @file_fd:	a regular file or block device, open for reading
 * @flags:	DMATRACE_LOADER_ALLOC_* and DMATRACE_LOADER_MMAP_*
 * @fd_flags:	O_CLOEXEC and an access mode, as for DMA_HEAP_IOCTL_ALLOC
 * @fd:		out: the dma-buf
 * @file_offset: first byte to read; before the end of the file
 * @length:	bytes to read; 0: to the end of the file
 * @chunk:	as in &struct dmatrace_loader_rw_file
 * @gather:	with GATHER: bytes of a batch, a multiple of the page size from
 *		DMATRACE_LOADER_MIN_GATHER to DMATRACE_LOADER_MAX_GATHER;
 *		0: DMATRACE_LOADER_DEFAULT_GATHER.  Else 0
 * @jobs:	with GATHER: batches read at the same time, up to
 *		DMATRACE_LOADER_MAX_JOBS; 0: 1, as the proposal.  Else 0
 * @batches:	out: batches read (1 without GATHER)
 * @buffer_length: out: the buffer's size, @length in whole pages
 * @bytes:	out: bytes read; less than @length where the file ends, and the
 *		rest of the buffer is 0
 * @alloc_ns:	out: allocating pages, and zeroing those that are asked for so
 * @vmap_ns:	out: vmap() and vunmap() of the pages (sum over workers)
 * @read_ns:	out: time in which at least one read was under way (with GATHER
 *		and VMAP including the mapping)
 * @zero_ns:	out: zeroing what was not read
 * @overlap_ns:	out: time in which both allocation and a read were under way
 * @wait_ns:	out: the caller's waiting for workers after the last allocation
 * @total_ns:	out: the whole call
 * @reserved:	zero
 *
 * The dma-buf's fd appears only when everything is read: no one else can see
 * the pages before.  On failure nothing is exported.  A killed caller waits for
 * reads under way in workers, but for no more than seconds: then the last of
 * them frees the pages.
 *
 * Direct: @file_offset and @length are aligned as for RW_FILE.
 *
 * Errors: EIO and others from the file; those of the header.
 */
struct dmatrace_loader_alloc_read {
	__s32 file_fd;
	__u32 flags;
	__u32 fd_flags;
	__s32 fd;
	__u64 file_offset;
	__u64 length;
	__u64 chunk;
	__u64 gather;
	__u32 jobs;
	__u32 batches;
	__u64 buffer_length;
	__u64 bytes;
	__u64 alloc_ns;
	__u64 vmap_ns;
	__u64 read_ns;
	__u64 zero_ns;
	__u64 overlap_ns;
	__u64 wait_ns;
	__u64 total_ns;
	__u64 reserved[2];
};

/**
 * struct dmatrace_loader_stream - a fd that writes into a dma-buf
 * @buffer_fd:	a dma-buf, open for writing
 * @fd_flags:	O_CLOEXEC or 0
 * @offset:	where the stream begins in the buffer
 * @length:	its bytes; 0: to the end of the buffer
 * @fd:		out: a write-only fd for write(2), pwrite(2), sendfile(2) and
 *		splice(2), at position 0
 * @reserved:	zero
 * @reserved2:	zero
 *
 * The data is copied by the CPU once.  Writes across the end are short, writes
 * at the end fail with ENOSPC.  The stream holds the dma-buf.
 *
 * Errors: EBUSY when a device is attached to the dma-buf; those of the header.
 */
struct dmatrace_loader_stream {
	__s32 buffer_fd;
	__u32 fd_flags;
	__u64 offset;
	__u64 length;
	__s32 fd;
	__u32 reserved;
	__u64 reserved2[2];
};

#define DMATRACE_LOADER_IOC_MAGIC	0xDB

/**
 * DMATRACE_LOADER_QUERY - fill in a &struct dmatrace_loader_query
 */
#define DMATRACE_LOADER_QUERY \
	_IOWR(DMATRACE_LOADER_IOC_MAGIC, 0, struct dmatrace_loader_query)
/**
 * DMATRACE_LOADER_RW_FILE - run a &struct dmatrace_loader_rw_file
 */
#define DMATRACE_LOADER_RW_FILE \
	_IOWR(DMATRACE_LOADER_IOC_MAGIC, 1, struct dmatrace_loader_rw_file)
/**
 * DMATRACE_LOADER_ALLOC - run a &struct dmatrace_loader_alloc
 */
#define DMATRACE_LOADER_ALLOC \
	_IOWR(DMATRACE_LOADER_IOC_MAGIC, 2, struct dmatrace_loader_alloc)
/**
 * DMATRACE_LOADER_ALLOC_READ - run a &struct dmatrace_loader_alloc_read
 */
#define DMATRACE_LOADER_ALLOC_READ \
	_IOWR(DMATRACE_LOADER_IOC_MAGIC, 3, struct dmatrace_loader_alloc_read)
/**
 * DMATRACE_LOADER_STREAM - run a &struct dmatrace_loader_stream
 */
#define DMATRACE_LOADER_STREAM \
	_IOWR(DMATRACE_LOADER_IOC_MAGIC, 4, struct dmatrace_loader_stream)

#endif /* _UAPI_DMATRACE_LOADER_H */
