// SPDX-License-Identifier: GPL-2.0-only
/*
 * memfds as targets: their folios are pinned for one read at a time.
 *
 * A memfd may be sealed against writing at any moment.  mapping_map_writable()
 * is what a writable shared mapping does: it fails once F_SEAL_WRITE is set,
 * and F_SEAL_WRITE fails (EBUSY) as long as we hold it.
 */
#include <linux/file.h>
#include <linux/fsnotify.h>
#include <linux/highmem.h>
#include <linux/hugetlb.h>
#include <linux/magic.h>
#include <linux/mm.h>
#include <linux/mount.h>
#include <linux/pagemap.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <uapi/linux/fcntl.h>

#include "loader.h"

#ifdef HAVE_MEMFD_PIN_FOLIOS

static unsigned int dml_seals(struct file *file)
{
	struct inode *inode = file_inode(file);

#ifdef CONFIG_HUGETLBFS
	if (inode->i_sb->s_magic == HUGETLBFS_MAGIC)
		return HUGETLBFS_I(inode)->seals;
#endif
	return SHMEM_I(inode)->seals;
}

/* A file of memfd_create(2): on the kernel's own mount of tmpfs or hugetlbfs. */
static bool dml_is_memfd(struct file *file)
{
	unsigned long magic = file_inode(file)->i_sb->s_magic;

	return S_ISREG(file_inode(file)->i_mode) &&
	       (magic == TMPFS_MAGIC || magic == HUGETLBFS_MAGIC) &&
	       file->f_path.mnt->mnt_flags & MNT_INTERNAL;
}

int dml_memfd_get(struct dml_target *target, int fd, u64 chunk)
{
	struct file *file = fget(fd);
	int ret = -EINVAL;

	if (!file)
		return -EBADF;
	if (!dml_is_memfd(file))
		goto put;
	ret = dml_may_write(file, i_size_read(file_inode(file)));
	if (ret)
		goto put;
	ret = mapping_map_writable(file->f_mapping);
	if (ret)
		goto put;
	ret = -EPERM;
	if (dml_seals(file) & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))
		goto unmap;
	target->kind = DML_MEMFD;
	target->memfd = file;
	target->size = i_size_read(file_inode(file));
	ret = dml_target_room(target, chunk);
	if (ret)
		goto unmap;
	target->folios = kvmalloc_array(target->max_bv, sizeof(*target->folios), DML_GFP_TABLE);
	ret = -ENOMEM;
	if (!target->folios)
		goto release;
	return 0;
release:
	dml_target_release(target);
unmap:
	mapping_unmap_writable(file->f_mapping);
put:
	fput(file);
	return ret;
}

void dml_memfd_put(struct dml_target *target)
{
	fsnotify_modify(target->memfd);
	kvfree(target->folios);
	mapping_unmap_writable(target->memfd->f_mapping);
	fput(target->memfd);
}

/*
 * fallocate(2) leaves folios that count as zeros but do not hold any: the first
 * look at one clears it, and with it what we read into it.  (Huge ones come so
 * out of memfd_pin_folios() itself where it lacks the fix "mm/memfd: fix
 * information leak in hugetlb folios".)  So they become zeros before.
 */
static void dml_memfd_settle(struct folio *folio)
{
	long i;

	if (folio_test_uptodate(folio))
		return;
	folio_lock(folio);
	if (!folio_test_uptodate(folio)) {
		for (i = 0; i < folio_nr_pages(folio); i++) {
			clear_highpage(folio_page(folio, i));
			cond_resched();
		}
		flush_dcache_folio(folio);
		folio_mark_uptodate(folio);
	}
	folio_unlock(folio);
}

int dml_memfd_begin(struct dml_target *target, u64 offset, size_t length,
		    unsigned int *nr, size_t *bytes)
{
	pgoff_t within;
	long i, found;

	/* No more folios than there is room for: each is at least a page. */
	length = min_t(u64, length, ((u64)target->max_bv << PAGE_SHIFT) - offset_in_page(offset));
	found = memfd_pin_folios(target->memfd, offset, offset + length - 1, target->folios,
				 target->max_bv, &within);
	if (found < 0)
		return found;
	target->nr_folios = found;
	*bytes = 0;
	for (i = 0; i < found && *bytes < length; i++) {
		struct folio *folio = target->folios[i];
		size_t part = min(folio_size(folio) - within, length - *bytes);

		dml_memfd_settle(folio);
		if (!dml_bvec_add(target->bv, nr, target->max_bv,
				  folio_page(folio, within >> PAGE_SHIFT), part,
				  offset_in_page(within)))
			break;
		*bytes += part;
		within = 0;
	}
	if (*bytes)
		return 0;
	unpin_folios(target->folios, found);
	return -EIO;
}

void dml_memfd_end(struct dml_target *target)
{
	long i;

	/* Reclaim drops clean pages, so say that these were written to. */
	for (i = 0; i < target->nr_folios; i++) {
		folio_lock(target->folios[i]);
		folio_mark_dirty(target->folios[i]);
		folio_unlock(target->folios[i]);
	}
	unpin_folios(target->folios, target->nr_folios);
}

#else /* commit 89c1905d9c14 "mm/gup: introduce memfd_pin_folios()" is not there */

int dml_memfd_get(struct dml_target *target, int fd, u64 chunk)
{
	struct file *file = fget(fd);
	bool memory;

	if (!file)
		return -EBADF;
	memory = file_inode(file)->i_sb->s_magic == TMPFS_MAGIC;
	fput(file);
	return memory ? -EOPNOTSUPP : -EINVAL;
}

void dml_memfd_put(struct dml_target *target)
{
}

int dml_memfd_begin(struct dml_target *target, u64 offset, size_t length,
		    unsigned int *nr, size_t *bytes)
{
	return -EOPNOTSUPP;
}

void dml_memfd_end(struct dml_target *target)
{
}

#endif
