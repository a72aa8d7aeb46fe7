// SPDX-License-Identifier: GPL-2.0-only
/*
 * How the bytes of large files are taken: by which path, in which system call,
 * in which sizes and how many at once, and into what.  Summed here per process,
 * file and way; no record per read.
 *
 * What a read goes into is known by its address: mappings of dma-bufs, files in
 * memory and devices are noted as they are made (calls.c), those that are there
 * already by whoever follows the process.  Every other address is anonymous memory.
 */
#define SCALE (1ULL << 20)              /* smaller files are not loaded at scale */
#define DMA_BUF_MAGIC 0x444d4142        /* include/uapi/linux/magic.h */
#define HUGETLBFS_MAGIC 0x958458f6
#define IOCB_DONTCACHE 0x80             /* RWF_DONTCACHE: Linux kernel commit 974c5e6139db
					 * "xfs: flag as supporting FOP_DONTCACHE" (in v6.14) */
#define FORMAT(mode) ((mode) & 0xf000)  /* include/uapi/linux/stat.h */

BPF_HASH(ways, struct way_key, struct way, WAYS_MAX);
BPF_ARRAY(blank_way, struct way, 1);
BPF_HASH(regions, u32, struct regions, FOLLOWED_MAX);
BPF_ARRAY(blank_regions, struct regions, 1);
/* Asynchronous direct reads under way: kiocb -> their way. */
BPF_TABLE("lru_hash", u64, struct way_key, dio_ways, DIOS_MAX);

/* What a file is, for bytes that go into it or into a mapping of it. */
static __always_inline u32 target_of(u64 inode)
{
	u32 mode = FORMAT(load32(inode + OFF_inode_i_mode));
	u64 magic = load64(load64(inode + OFF_inode_i_sb) + OFF_super_block_s_magic);

	/* First: devtmpfs, where devices live, is a tmpfs. */
	if (mode == 0x1000)
		return TO_PIPE;
	if (mode == 0xc000)
		return TO_SOCKET;
	if (mode == 0x2000)
		return TO_DEVICE;
	if (magic == DMA_BUF_MAGIC)
		return TO_DMABUF;
	if (magic == TMPFS_MAGIC || magic == HUGETLBFS_MAGIC)
		return TO_SHMEM;
	return mode == 0x8000 || mode == 0x6000 ? TO_FILE : TO_UNKNOWN;
}

static __always_inline void name_target(struct way_key *key, u64 inode)
{
	struct file_key name = {};

	key->kind = target_of(inode);
	name_inode(inode, &name);
	key->to = name.ino;
	key->to_dev = name.dev;
}

/* The mapping that a user address lies in, of those that are known. */
static __always_inline void find_region(struct way_key *key, u64 address)
{
	u32 tgid = key->tgid, i;
	struct regions *all = regions.lookup(&tgid);

	key->kind = TO_ANONYMOUS;
	if (!all)
		return;
	if (all->missed)
		key->kind = TO_UNKNOWN;
	/* Not unrolled: this is part of every hook's program. */
#pragma clang loop unroll(disable)
	for (i = 0; i < REGIONS_MAX; i++) {
		struct region *r = &all->at[i];

		if (address - r->start < r->end - r->start) {
			key->kind = r->kind;
			key->to = r->ino;
			key->to_dev = r->dev;
			break;
		}
	}
}

/* Of pages that were registered, or that the kernel passes on, the first says whose they are. */
static __always_inline u64 inode_of_vec(struct way_key *key, u64 vec)
{
	u64 page = load64(vec + OFF_bio_vec_bv_page), mapping;

	key->flags |= WAY_FIXED;
	if (!page)
		return 0;
	mapping = load64(folio_of(page) + OFF_folio_mapping);
	if (mapping & 1)        /* FOLIO_MAPPING_ANON */
		key->kind = TO_ANONYMOUS;
	return inode_of_mapping(mapping);
}

/* What takes the bytes: a file, the memory of an iterator, or what is not known. */
static __always_inline void name_taker(struct thread *t, struct way_key *key, u64 iter)
{
	u64 inode = t->sink ? inode_of_file(t->sink) : 0, address = 0;
	u32 type;

	if (!inode && !iter)
		return;
	if (!inode) {
		type = load32(iter + OFF_iov_iter_type) & 0xff;
		key->kind = TO_KERNEL;
		if (type == ITER_UBUF)
			address = load64(iter + OFF_iov_iter_ubuf);
		else if (type == ITER_IOVEC)    /* struct iovec begins with the address */
			address = load64(load64(iter + OFF_iov_iter_iov));
		else if (type == ITER_BVEC)
			inode = inode_of_vec(key, load64(iter + OFF_iov_iter_iov));
		if (address)
			find_region(key, address + load64(iter + OFF_iov_iter_iov_offset));
	}
	if (inode)
		name_target(key, inode);
}

static __always_inline struct way *way_of(struct way_key *key)
{
	struct way *w = ways.lookup(key), *empty;
	int zero = 0;

	if (w)
		return w;
	empty = blank_way.lookup(&zero);
	if (!empty)
		return 0;
	/* insert(): as in count_io(). */
	ways.insert(key, empty);
	w = ways.lookup(key);
	if (!w)
		count_lost(LOST_ROOM);
	return w;
}

static __always_inline u32 size_class(u64 bytes)
{
	u32 class = 0, i;

#pragma clang loop unroll(disable)
	for (i = 0; i < SIZES_MAX - 1; i++) {
		if (bytes < (4096ULL << i))
			break;
		class += 1;
	}
	return class;
}

/* The key of a read by this thread of a file that is large enough, but for what takes it. */
static __always_inline int way_key(struct thread *t, struct way_key *key, u64 inode, u32 path)
{
	if (!inode || load64(inode + OFF_inode_i_size) < SCALE)
		return 0;
	name_inode(inode, &key->file);
	key->tgid = t->tgid;
	key->path = path;
	key->call = NO_CALL;
	if (t->depth && t->stack[0].hook == HOOK_SYSCALL)
		key->call = t->call;
	else if (path != WAY_FAULT)
		key->flags = WAY_WORKER;
	return 1;
}

/*
 * A read of a file begins, or a fault on a mapping of it, of which ``mapped`` bytes
 * are the most that it can map.
 */
static __always_inline void way_begins(struct thread *t, u64 file, u32 path, u64 iocb, u64 iter,
				       u64 mapped)
{
	struct way_key key = {};
	u64 inode = 0, now = bpf_ktime_get_ns();
	struct way *w;

	if (file && !(file & FILE_WRITE))
		inode = inode_of(file);
	if (!way_key(t, &key, inode, path))
		return;
	if (path == WAY_FAULT) {
		key.kind = TO_MAPPING;
	} else {
		if (load32(file + OFF_file_f_flags) & O_DIRECT)
			key.flags |= WAY_O_DIRECT;
		if (iocb && load32(iocb + OFF_kiocb_ki_flags) & IOCB_DONTCACHE)
			key.flags |= WAY_DONTCACHE;
		name_taker(t, &key, iter);
	}
	w = way_of(&key);
	if (!w)
		return;
	w->size = load64(inode + OFF_inode_i_size);
	if (!w->first)
		w->first = now;
	if (path == WAY_FAULT) {
		w->last = now;
		__sync_fetch_and_add(&w->calls, 1);
		__sync_fetch_and_add(&w->bytes, mapped);
		if (mapped > w->largest)
			w->largest = mapped;
		return;
	}
	__sync_fetch_and_add(&w->flying, 1);
	__sync_fetch_and_add(&w->begun, 1);
	__sync_fetch_and_add(&w->depth, w->flying);
	if (w->flying > w->deepest)
		w->deepest = w->flying;
	t->way = key;
	if (path == WAY_DIRECT && iocb && load64(iocb + OFF_kiocb_ki_complete))
		dio_ways.update(&iocb, &key);
}

static __always_inline void way_adds(struct way *w, s64 bytes)
{
	if (bytes <= 0)
		return;
	__sync_fetch_and_add(&w->calls, 1);
	__sync_fetch_and_add(&w->bytes, bytes);
	__sync_fetch_and_add(&w->sizes[size_class(bytes) & (SIZES_MAX - 1)], 1);
	if ((u64)bytes > w->largest)
		w->largest = bytes;
	w->last = bpf_ktime_get_ns();
}

/* A read has returned ``bytes``; if it ``ended`` nothing of it is under way any more. */
static __always_inline void way_goes(struct thread *t, s64 bytes, int ended)
{
	struct way_key key = t->way;
	struct way *w;

	if (key.path == WAY_NONE)
		return;
	w = ways.lookup(&key);
	if (ended)
		t->way.path = WAY_NONE;
	if (!w)
		return;
	way_adds(w, bytes);
	if (ended)
		__sync_fetch_and_add(&w->flying, -1ULL);
}

/* An asynchronous direct read has ended: with bytes, or as one that never began. */
static __always_inline void way_completes(u64 iocb, s64 bytes)
{
	struct way_key *found = dio_ways.lookup(&iocb), key;
	struct way *w;

	if (!found)
		return;
	key = *found;
	dio_ways.delete(&iocb);
	w = ways.lookup(&key);
	if (!w)
		return;
	way_adds(w, bytes);
	__sync_fetch_and_add(&w->flying, -1ULL);
}

/* Bytes that came into a file in memory out of a pipe, or of user memory by write(2). */
static __always_inline void way_written(struct thread *t, u64 file, s64 bytes)
{
	u64 source = t->source ? inode_of_file(t->source) : 0;
	struct way_key key = { .tgid = t->tgid, .call = t->call, .path = WAY_WRITTEN };
	struct way *w;

	/* sendfile(2) and copy_file_range(2) named it when they read. */
	if (t->sink && (!source || target_of(source) != TO_PIPE))
		return;
	if (source)
		name_inode(source, &key.file);
	name_target(&key, inode_of_file(file));
	w = way_of(&key);
	if (!w)
		return;
	if (!w->first)
		w->first = t->last;
	way_adds(w, bytes);
}
