// SPDX-License-Identifier: GPL-2.0-only
/*
 * System calls that prepare or end a load: a record each, of large files,
 * dma-bufs, files in memory and devices alone.  Called by the system-call
 * tracepoints of tasks.c, so that no further program has to be attached.
 */
#define MAP_TYPE 0x0f                   /* include/uapi/linux/mman.h, mman-common.h */
#define MAP_PRIVATE 2
#define MAP_ANONYMOUS 0x20
#define UDMABUF_CREATE 0x40187542       /* include/uapi/linux/udmabuf.h */
#define UDMABUF_CREATE_LIST 0x40087543

/* struct file of a descriptor of the current task, or 0. */
static __always_inline u64 file_of_fd(u64 fd)
{
	u64 table = load64(load64(bpf_get_current_task() + OFF_task_struct_files) +
			   OFF_files_struct_fdt);

	if (!table || (u32)fd >= load32(table + OFF_fdtable_max_fds))
		return 0;
	return load64(load64(table + OFF_fdtable_fd) + 8ULL * (u32)fd);
}

static __always_inline int matters(u32 kind, u64 size)
{
	return kind == TO_DMABUF || kind == TO_SHMEM || kind == TO_DEVICE ||
	       (kind == TO_FILE && size >= SCALE);
}

static __always_inline void emit_call(struct call_event *e)
{
	if (events.ringbuf_output(e, sizeof(*e), BPF_RB_NO_WAKEUP))
		count_lost(LOST_RING);
}

static __always_inline void describe_dmabuf(struct call_event *e, u64 dmabuf)
{
	e->size = load64(dmabuf + OFF_dma_buf_size);
	bpf_probe_read_kernel_str(e->exporter, sizeof(e->exporter),
				  (void *)load64(dmabuf + OFF_dma_buf_exp_name));
}

/* What the call is about; 0 where that does not matter to a load. */
static __always_inline int about(struct call_event *e, u64 fd)
{
	u64 file = file_of_fd(fd), inode;
	struct file_key name = {};

	inode = file ? inode_of_file(file) : 0;
	if (!inode)
		return 0;
	e->fd = fd;
	e->kind = target_of(inode);
	e->size = load64(inode + OFF_inode_i_size);
	if (!matters(e->kind, e->size))
		return 0;
	name_inode(inode, &name);
	e->ino = name.ino;
	e->dev = name.dev;
	if (e->kind == TO_DMABUF)
		describe_dmabuf(e, load64(file + OFF_file_private_data));
	return 1;
}

/*
 * What is mapped in [start, end) is no more; whether there was something.  Of a mapping
 * that is cut in the middle the upper part finds no room.
 */
static __always_inline int forget_regions(u32 tgid, u64 start, u64 end)
{
	struct regions *all = regions.lookup(&tgid);
	int found = 0;
	u32 i;

	if (!all)
		return 0;
#pragma clang loop unroll(disable)
	for (i = 0; i < REGIONS_MAX; i++) {
		struct region *r = &all->at[i];

		if (r->end <= r->start || r->end <= start || r->start >= end)
			continue;
		found = 1;
		if (r->start >= start && r->end > end) {
			r->start = end;
			continue;
		}
		if (r->end > end)
			all->missed += 1;
		r->end = r->start >= start ? r->start : start;
	}
	return found;
}

static __always_inline void miss_region(u32 tgid)
{
	struct regions *all = regions.lookup(&tgid);

	if (all)
		all->missed += 1;
}

static __always_inline void note_region(u32 tgid, struct region *new)
{
	struct regions *all = regions.lookup(&tgid), *empty;
	int zero = 0;
	u32 i;

	if (!all) {
		empty = blank_regions.lookup(&zero);
		if (!empty)
			return;
		/* insert(): as in count_io(). */
		regions.insert(&tgid, empty);
		all = regions.lookup(&tgid);
		if (!all) {
			count_lost(LOST_ROOM);
			return;
		}
	}
#pragma clang loop unroll(disable)
	for (i = 0; i < REGIONS_MAX; i++) {
		struct region *r = &all->at[i];

		if (r->end <= r->start) {
			*r = *new;
			return;
		}
	}
	all->missed += 1;
}

static __always_inline void udmabuf_asked(struct thread *t, u64 command, u64 argument)
{
	/* struct udmabuf_create: memfd, flags, offset, size; of a list, behind flags and count,
	 * the first item: memfd, pad, offset, size. */
	u64 item = argument + (command == UDMABUF_CREATE_LIST ? 8 : 0), inode;
	struct file_key name = {};
	u32 memfd = 0;

	bpf_probe_read_user(&memfd, sizeof(memfd), (void *)item);
	bpf_probe_read_user(&t->call_length, sizeof(t->call_length), (void *)(item + 16));
	inode = file_of_fd(memfd);
	inode = inode ? inode_of_file(inode) : 0;
	if (!inode)
		return;
	name_inode(inode, &name);
	t->call_ino = name.ino;
	t->call_dev = name.dev;
}

static __always_inline void call_begins(struct thread *t, u32 number, u64 regs)
{
	struct call_event e = { .type = EV_CALL, .tid = t->tid, .tgid = t->tgid, .at = t->last };
	u64 a0, a1, a2;
	int known;

	t->call = number;
	t->sink = t->source = t->call_ino = 0;
	switch (number) {
	case NR_CLOSE: case NR_MUNMAP: case NR_MADVISE: case NR_FADVISE64: case NR_READAHEAD:
	case NR_MREMAP: case NR_SENDFILE: case NR_SPLICE: case NR_COPY_FILE_RANGE: case NR_IOCTL:
		break;
	default:
		return;
	}
	a0 = load64(regs + OFF_ARG0);
	a1 = load64(regs + OFF_ARG1);
	a2 = load64(regs + OFF_ARG2);
	switch (number) {
	case NR_CLOSE:
		e.what = CALL_CLOSE;
		if (!about(&e, a0))
			return;
		break;
	case NR_FADVISE64:      /* (fd, offset, len, advice) */
		e.what = CALL_FADVISE;
		e.flags = load32(regs + OFF_ARG3);
		e.other = a1;
		e.length = a2;
		if (!about(&e, a0))
			return;
		break;
	case NR_READAHEAD:      /* (fd, offset, count) */
		e.what = CALL_READAHEAD;
		e.other = a1;
		e.length = a2;
		if (!about(&e, a0))
			return;
		break;
	case NR_MUNMAP: case NR_MREMAP:
		e.what = CALL_MUNMAP;
		e.address = a0;
		e.length = a1;
		known = forget_regions(t->tgid, a0, a0 + a1);
		if (number == NR_MREMAP) {
			/* Where it goes to is not followed. */
			if (known)
				miss_region(t->tgid);
			return;
		}
		if (!known && a1 < SCALE)
			return;
		break;
	case NR_MADVISE:
		/* free(3) says DONTNEED and FREE all the time. */
		if (a1 < SCALE || a2 == 4 || a2 == 8)
			return;
		e.what = CALL_MADVISE;
		e.address = a0;
		e.length = a1;
		e.flags = a2;
		break;
	case NR_SENDFILE:       /* (out, in, offset, count) */
		t->sink = file_of_fd(a0);
		t->source = file_of_fd(a1);
		return;
	case NR_SPLICE: case NR_COPY_FILE_RANGE:        /* (in, offset, out, ...) */
		t->source = file_of_fd(a0);
		t->sink = file_of_fd(a2);
		return;
	case NR_IOCTL:
		if ((u32)a1 == UDMABUF_CREATE || (u32)a1 == UDMABUF_CREATE_LIST)
			udmabuf_asked(t, (u32)a1, a2);
		return;
	}
	emit_call(&e);
}

/*
 * A read that was under way when its thread was first followed.  It has no beginning for
 * us, so that hooks of functions saw nothing of it, or its bytes without the file: what
 * the call returns is all of it, also what came before.
 */
static __always_inline void late_read(struct thread *t, u64 regs, s64 returned)
{
	u64 file, inode, address = load64(regs + OFF_ARG1), seen;
	u32 counter = COUNT_COPY_READ, path = WAY_BUFFERED;
	struct way_key key = {};
	struct way *w;

	switch (t->call) {
	case NR_READ: case NR_PREAD64:
		break;
	case NR_READV: case NR_PREADV: case NR_PREADV2:
		bpf_probe_read_user(&address, sizeof(address), (void *)address);
		break;
	default:
		return;
	}
	file = returned > 0 ? file_of_fd(load64(regs + OFF_ARG0_KEPT)) : 0;
	inode = file ? inode_of_file(file) : 0;
	if (!inode)
		return;
	key.kind = target_of(inode);
	if (key.kind == TO_SHMEM)
		counter = COUNT_COPY_SHMEM_READ;
	else if (key.kind != TO_FILE)
		return;
	if (load32(file + OFF_file_f_flags) & O_DIRECT) {
		counter = COUNT_DIO;
		path = WAY_DIRECT;
		key.flags = WAY_O_DIRECT;
	}
	/* The first call of a thread: all that was counted before is of it. */
	seen = t->counters[COUNT_COPY_READ] + t->counters[COUNT_COPY_SHMEM_READ] +
	       t->counters[COUNT_DIO];
	if (seen < returned)
		t->counters[counter] += returned - seen;
	count_io(file, path == WAY_DIRECT ? IO_DIRECT : IO_BUFFERED, returned);
	if (!way_key(t, &key, inode, path))
		return;
	key.flags |= WAY_LATE;
	find_region(&key, address);
	w = way_of(&key);
	if (!w)
		return;
	w->size = load64(inode + OFF_inode_i_size);
	w->first = t->stack[0].start;
	__sync_fetch_and_add(&w->begun, 1);
	__sync_fetch_and_add(&w->depth, 1);
	if (!w->deepest)
		w->deepest = 1;
	way_adds(w, returned);
}

static __always_inline void call_ends(struct thread *t, u64 regs, s64 returned)
{
	struct call_event e = { .type = EV_CALL, .tid = t->tid, .tgid = t->tgid, .at = t->last };
	u32 number = t->call;
	struct region r = {};
	u64 name = 0;

	t->call = NO_CALL;
	t->sink = t->source = 0;
	if (returned < 0 && returned >= -4095)
		return;
	switch (number) {
	case NR_OPEN:
		name = load64(regs + OFF_ARG0);
		e.flags = load32(regs + OFF_ARG1);
		break;
	case NR_OPENAT:
		e.flags = load32(regs + OFF_ARG2);
		/* fall through */
	case NR_OPENAT2:
		name = load64(regs + OFF_ARG1);
		break;
	case NR_MMAP:           /* (address, length, prot, flags, fd, offset) */
		e.what = CALL_MMAP;
		e.address = returned;
		e.length = load64(regs + OFF_ARG1);
		e.prot = load32(regs + OFF_ARG2);
		e.flags = load32(regs + OFF_ARG3);
		e.other = load64(regs + OFF_ARG5);
		/* What was there before, with MAP_FIXED. */
		forget_regions(t->tgid, e.address, e.address + e.length);
		if (e.flags & MAP_ANONYMOUS || !about(&e, load64(regs + OFF_ARG4)))
			return;
		if (e.kind == TO_FILE && e.length < SCALE)
			return;
		if ((e.flags & MAP_TYPE) != MAP_PRIVATE) {
			r.start = e.address;
			r.end = e.address + ((e.length + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1));
			r.ino = e.ino;
			r.dev = e.dev;
			r.kind = e.kind;
			note_region(t->tgid, &r);
		}
		break;
	case NR_IOCTL:
		if (!t->call_ino || !about(&e, returned))
			return;
		e.what = CALL_UDMABUF;
		e.other = t->call_ino;
		e.other_dev = t->call_dev;
		e.length = t->call_length;
		break;
	default:
		return;
	}
	if (name) {
		e.what = CALL_OPEN;
		if (!about(&e, returned))
			return;
		e.flags = load32(file_of_fd(returned) + OFF_file_f_flags);
		bpf_probe_read_user_str(e.path, sizeof(e.path), (void *)name);
	}
	emit_call(&e);
}

/* A new process has its parent's mappings, one that execs has none. */
static __always_inline void fork_regions(u32 parent, u32 child)
{
	struct regions *all = regions.lookup(&parent);

	if (all)
		regions.update(&child, all);
}
