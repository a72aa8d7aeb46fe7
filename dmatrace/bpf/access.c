// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reading the kernel's structures: numbers, folios, and which file something
 * belongs to.  A file is known as the filemap tracepoints name it, by the
 * inode and device of its mapping's host.
 */
#define PAGE_BYTES 4096ULL

static __always_inline u64 load64(u64 address)
{
	u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
	return value;
}

static __always_inline u32 load32(u64 address)
{
	u32 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
	return value;
}

static __always_inline u32 task_pid(u64 task)
{
	return load32(task + OFF_task_struct_pid);
}

/* A folio is 1 << order pages; the order lives in the low byte of the second
 * page's flags word since 6.6 (commit ebc1baf5c9b4 "mm: free up a word in the
 * first tail page"), in _folio_order before. */
static __always_inline u64 folio_bytes(u64 folio)
{
	if (!(load64(folio + OFF_folio_flags) & (1ULL << BIT_PG_head)))
		return PAGE_BYTES;
	return PAGE_BYTES << (load32(folio + OFF_folio_order) & 0xff);
}

/* A tail page has a pointer to its head, or the mask that makes one (7.x). */
static __always_inline u64 folio_of(u64 page)
{
	u64 info = load64(page + OFF_page_compound);

	if (!(info & 1))
		return page;
	/* No array of struct page reaches into the last 256 MiB. */
	return info >= (u64)-(1LL << 28) ? page & info : info - 1;
}

/* The inode of what stands in a folio's mapping, or 0: anonymous, slab. */
static __always_inline u64 inode_of_mapping(u64 mapping)
{
	u64 inode;

	/* PAGE_MAPPING_FLAGS, include/linux/page-flags.h */
	if (!mapping || mapping & 3)
		return 0;
	inode = load64(mapping + OFF_address_space_host);
	/* Of memory that is no folio the word means something else. */
	return inode && load64(inode + OFF_inode_i_mapping) == mapping ? inode : 0;
}

static __always_inline struct file_key key_of_mapping(u64 mapping)
{
	u64 host = load64(mapping + OFF_address_space_host);
	struct file_key key = {
		.ino = load64(host + OFF_inode_i_ino),
		.dev = load32(load64(host + OFF_inode_i_sb) + OFF_super_block_s_dev),
	};

	return key;
}

static __always_inline struct file_key key_of_file(u64 file)
{
	return key_of_mapping(load64(file + OFF_file_f_mapping));
}
