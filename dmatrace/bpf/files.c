// SPDX-License-Identifier: GPL-2.0-only
/*
 * What traced threads read of each file, by the path that the bytes took.
 * One look-up per read call, none per page.
 */
#define S_ISBLK(mode) (((mode) & 0xf000) == 0x6000)
#define TMPFS_MAGIC 0x01021994    /* include/uapi/linux/magic.h */
#define O_ACCMODE 3
#define FILE_WRITE 1ULL           /* low bit of frame.file: the call writes, or may */

BPF_HASH(file_ios, struct file_key, struct file_io, FILES_MAX);
BPF_ARRAY(blank_io, struct file_io, 1);

enum io_path { IO_NONE, IO_CALL, IO_DIRECT, IO_ERROR, IO_BUFFERED, IO_SPLICED, IO_PIPED };

/* Direct writes under way, by kiocb: its IOCB_WRITE is not set for all of them. */
BPF_TABLE("lru_hash", u64, u32, dio_writes, DIOS_MAX);

/* A frame's note of the file that a kiocb is for. */
static __always_inline u64 file_of(u64 iocb)
{
	return load64(iocb + OFF_kiocb_ki_filp);
}

/* The same as direct I/O begins, whose iterator says whether it is a write's source. */
static __always_inline u64 dio_begins(u64 iocb, u64 iter)
{
	u32 source = load32(iter + OFF_iov_iter_data_source) & 0xff;

	if (source) {
		dio_writes.update(&iocb, &source);
		return file_of(iocb) | FILE_WRITE;
	}
	dio_writes.delete(&iocb);
	return file_of(iocb);
}

static __always_inline u64 dio_ends(u64 iocb)
{
	return dio_writes.lookup(&iocb) ? file_of(iocb) | FILE_WRITE : file_of(iocb);
}

/* Where the iterator is out of reach: of a file that may be written nobody can tell. */
static __always_inline u64 dio_unknown(u64 iocb)
{
	u64 file = file_of(iocb);

	return load32(file + OFF_file_f_flags) & O_ACCMODE ? file | FILE_WRITE : file;
}

/* The inode whose page cache a file uses: of a block device, the device's own. */
static __always_inline u64 inode_of(u64 file)
{
	u64 mapping = load64((file & ~FILE_WRITE) + OFF_file_f_mapping);

	return mapping ? load64(mapping + OFF_address_space_host) : 0;
}

/* The inode of a file itself: pipes and dma-bufs have no page cache. */
static __always_inline u64 inode_of_file(u64 file)
{
	return load64(file + OFF_file_f_inode);
}

static __always_inline void name_inode(u64 inode, struct file_key *key)
{
	if (S_ISBLK(load32(inode + OFF_inode_i_mode))) {
		/* The inode's own number is one of the bdev file system's. */
		key->dev = load32(inode + OFF_inode_i_rdev);
		key->ino = 0;
	} else {
		key->dev = load32(load64(inode + OFF_inode_i_sb) + OFF_super_block_s_dev);
		key->ino = load64(inode + OFF_inode_i_ino);
	}
}

static __always_inline int in_memory(u64 file)
{
	u64 sb = load64(inode_of(file) + OFF_inode_i_sb);

	return load64(sb + OFF_super_block_s_magic) == TMPFS_MAGIC;
}

static __always_inline void count_io(u64 file, enum io_path path, s64 amount)
{
	struct file_key key = {};
	struct file_io *io, *empty;
	u64 inode;
	int zero = 0;

	if (!file || file & FILE_WRITE)
		return;
	inode = inode_of(file);
	if (!inode)
		return;
	name_inode(inode, &key);
	io = file_ios.lookup(&key);
	if (!io) {
		empty = blank_io.lookup(&zero);
		if (!empty)
			return;
		/* insert(): an update would undo what another CPU's new entry has got by now. */
		file_ios.insert(&key, empty);
		io = file_ios.lookup(&key);
		if (!io) {
			count_lost(LOST_ROOM);
			return;
		}
	}
	switch (path) {
	case IO_NONE:
		break;
	case IO_CALL:
		__sync_fetch_and_add(&io->direct_calls, 1);
		break;
	case IO_DIRECT:
		__sync_fetch_and_add(&io->direct, amount);
		break;
	case IO_ERROR:
		if (amount == -22)
			__sync_fetch_and_add(&io->einval, 1);
		else if (amount == -14)
			__sync_fetch_and_add(&io->efault, 1);
		else
			__sync_fetch_and_add(&io->errors, 1);
		break;
	case IO_PIPED:          /* filemap_read() has counted it as copied */
		__sync_fetch_and_add(&io->buffered, -amount);
		__sync_fetch_and_add(&io->spliced, amount);
		break;
	case IO_SPLICED:
		__sync_fetch_and_add(&io->spliced, amount);
		break;
	case IO_BUFFERED:
		__sync_fetch_and_add(&io->buffered, amount);
		if (load32(file + OFF_file_f_flags) & O_DIRECT)
			__sync_fetch_and_add(&io->fallback, amount);
		break;
	}
}

/* How the direct reads of a file are aligned: the lowest bit of the OR is common to all. */
static __always_inline void note_alignment(u64 file, u64 iocb, u64 iter)
{
	u64 inode, memory = 0;
	struct file_key key = {};
	struct file_io *io;
	u32 type;

	if (!file || file & FILE_WRITE)
		return;
	inode = inode_of(file);
	if (!inode)
		return;
	name_inode(inode, &key);
	io = file_ios.lookup(&key);
	if (!io)
		return;
	type = load32(iter + OFF_iov_iter_type) & 0xff;
	if (type == ITER_UBUF)
		memory = load64(iter + OFF_iov_iter_ubuf) + load64(iter + OFF_iov_iter_iov_offset);
	else if (type == ITER_IOVEC)
		memory = load64(load64(iter + OFF_iov_iter_iov)) +
			 load64(iter + OFF_iov_iter_iov_offset);
	/* Not atomic: two threads that set the same bits lose none. */
	io->offsets |= load64(iocb + OFF_kiocb_ki_pos) | load64(iter + OFF_iov_iter_count);
	io->memory |= memory;
}
