/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the BPF programs and dmatrace/bpf/layout.py share.  A guest test
 * compares the sizes; change both together.
 *
 * All times are CLOCK_MONOTONIC nanoseconds (bpf_ktime_get_ns), all amounts
 * bytes.  No kernel header is included anywhere: offsets into kernel
 * structures arrive as OFF_* constants taken from the running kernel's BTF.
 */
#ifndef DMATRACE_H
#define DMATRACE_H

#define PHASE_MAX 32   /* cells per thread; power of two, masks are used  */
#define HOOK_MAX 128   /* hooks in the table; power of two                */
#define DEPTH_MAX 16   /* nested hooks; deepest seen is 7 (write fault)    */
#define COUNTER_MAX 32
#define REGIONS_MAX 32 /* mappings of files in memory, dma-bufs and devices per process */
#define SIZES_MAX 16   /* below 4 KiB, then powers of two up to 64 MiB and more */
#define PATH_MAX_KEPT 96
#define FRAMES_MAX 64     /* room for a sampled stack; the last stays empty */
#define PHASE_OUTER 0xff  /* of a hook that stays in the phase around it */

enum mode { MODE_CPU, MODE_BLOCKED, MODE_RUNNABLE };

enum event_type {
	EV_SNAPSHOT = 1, EV_REQUEST, EV_BUFFER, EV_INTERVAL, EV_WAIT, EV_RUN, EV_SAMPLE, EV_CALL,
};
/* What is not known yet of a thread that ran when it was first followed. */
enum late { LATE_NOT, LATE_FRAMES, LATE_ALL };
enum lost { LOST_RING, LOST_ROOM, LOST_MAX };
enum snap_kind { SNAP_BEGIN = 1, SNAP_END, SNAP_FORK, SNAP_EXIT, SNAP_WORK_BEGIN, SNAP_WORK_END };
enum buffer_kind { BUFFER_EXPORT = 1, BUFFER_RELEASE };
enum request_kind {
	KIND_UNKNOWN, KIND_DIRECT, KIND_READAHEAD, KIND_PAGE_CACHE, KIND_METADATA, KIND_SWAP,
};
enum run_kind { RUN_READAHEAD, RUN_READ, RUN_MAPPED, RUN_MAX };

/* How a file's bytes were taken: struct way_key. */
enum way_path {
	WAY_NONE, WAY_BUFFERED, WAY_DIRECT, WAY_SPLICED, WAY_FAULT,
	WAY_WRITTEN,            /* into a file in memory, from a pipe or from user memory */
};
/* And what took them. */
enum target {
	TO_UNKNOWN,
	TO_ANONYMOUS,           /* user memory that no file of the others backs */
	TO_SHMEM,               /* memfd, tmpfs, hugetlbfs */
	TO_DMABUF, TO_DEVICE, TO_FILE, TO_PIPE, TO_SOCKET,
	TO_KERNEL,              /* pages that the kernel passed on */
	TO_MAPPING,             /* nothing: the page cache itself is mapped */
};
#define WAY_O_DIRECT 1          /* the file is open with O_DIRECT */
#define WAY_DONTCACHE 2
#define WAY_FIXED 4             /* into pages that were registered (io_uring) */
#define WAY_WORKER 8            /* by a kernel thread that works for the process */
#define WAY_LATE 16             /* under way when its thread was first followed */
#define NO_CALL 0xffffffff      /* in no system call */
enum call { CALL_OPEN = 1, CALL_CLOSE, CALL_MMAP, CALL_MUNMAP, CALL_MADVISE, CALL_FADVISE,
	    CALL_READAHEAD, CALL_UDMABUF, CALL_ATTACH, CALL_DETACH };

/* The map `pinned`: bytes, bytes, pages x us, ns, ns. */
enum pinned_slot {
	PINNED_NOW, PINNED_PEAK, PINNED_MOMENT, PINNED_SINCE, PINNED_NS, PINNED_MAX
};

/* Of the map `memory_devs`. */
enum dev_kind { DEV_HUGETLB = 1, DEV_SHMEM };

/* How a folio left the page cache; the first four are of functions that a task is in. */
enum removal {
	REMOVED_OTHER,
	REMOVED_INVALIDATE,     /* posix_fadvise(DONTNEED), direct writes */
	REMOVED_TRUNCATE,
	REMOVED_UNLINK,         /* its inode is evicted: unlinked and closed, or unmounted */
	REMOVED_DROP_CACHES,
	REMOVED_RECLAIM,        /* direct reclaim, a memory cgroup's too, by whichever task */
	REMOVED_KSWAPD,
	REMOVED_MAX = 8,        /* power of two, masks are used */
};

enum counter {
	COUNT_COPY_READ,        /* filemap_read: page cache -> iterator   */
	COUNT_COPY_WRITE,       /* generic_perform_write: user -> folios  */
	COUNT_COPY_SHMEM_READ,  /* shmem_file_read_iter                   */
	COUNT_DIO,              /* bytes completed by direct I/O          */
	COUNT_DIO_ERRORS,       /* direct I/O calls that failed           */
	COUNT_SHMEM_ALLOC,      /* shmem folios allocated and added       */
	COUNT_PIN,              /* bytes pinned by GUP and memfd_pin_folios */
	COUNT_LOST_EXITS,       /* frames dropped because no exit came    */
	COUNT_ORPHAN_EXITS,     /* exits without an entry (attached late) */
	COUNT_OVERFLOWS,        /* entries beyond DEPTH_MAX               */
	COUNT_WAKE_NS,          /* runnable after a wakeup, until on a CPU */
	COUNT_SPLICE_CACHE,     /* filemap_splice_read: cache -> pipe, by reference */
	COUNT_SPLICE_SHMEM,     /* shmem_file_splice_read: the same of a tmpfs file */
	COUNT_SPLICE_PAGES,     /* copy_splice_read: read into the pipe's own pages */
	COUNT_SPLICE_WRITE,     /* iter_file_splice_write: pipe -> file   */
	COUNT_COPY_STREAM,      /* dmatrace_loader_stream_write           */
	COUNT_COPY_READ_MODULE, /* of COPY_READ, into the loader module's target */
	COUNT_COPY_WRITE_SHMEM, /* of COPY_WRITE, into a file in memory   */
	COUNT_COPY_WRITE_PIPE,  /* of COPY_WRITE, out of a pipe           */
	COUNT_COPY_PIPE_SHMEM,  /* of COPY_WRITE, both                    */
	COUNT_BIO_READ,         /* bios queued, those of stacked devices' drivers aside */
	COUNT_CACHE_ADDED,      /* to the page cache, of any file         */
	COUNT_CACHE_REMOVED,    /* from the page cache, of any file       */
	COUNT_READAHEAD,        /* of what it added: by readahead         */
	COUNT_REFAULT,          /* of what it added: evicted before       */
	COUNT_SCHED_RUN_NS,     /* task->se.sum_exec_runtime when it ended */
	COUNT_SCHED_WAIT_NS,    /* task->sched_info.run_delay when it ended */
};

struct cell {
	u64 ns[3];              /* by enum mode */
	u64 count;              /* entries from another phase */
};

struct frame {
	u32 hook;
	u32 phase;
	u64 start;
	u64 arg;                /* the entry handler's note to the exit handler */
	u64 file;               /* struct file that a read or write is of, else 0 */
};

struct file_key {
	u64 ino;
	u64 dev;                /* s_dev as the tracepoint prints it: MAJOR << 20 | MINOR */
};

/* Bytes [start, end) of a file that a thread went through in one go; the EV_RUN record. */
struct run {
	u32 type;
	u32 kind;               /* enum run_kind */
	u32 tid;
	u32 tgid;
	u64 ino;
	u64 dev;
	u64 start;
	u64 end;                /* 0: none */
	u64 since;
	u64 until;
};

/* Reads that are alike in all that names their way; every byte of it is set. */
struct way_key {
	struct file_key file;   /* what is read; of WAY_WRITTEN the pipe, or 0 */
	u64 to;                 /* inode of the dma-buf, memfd, pipe or file that takes it */
	u32 to_dev;
	u32 tgid;
	u32 call;               /* number of the system call, or NO_CALL */
	u8 path;                /* enum way_path */
	u8 kind;                /* enum target */
	u8 flags;
	u8 reserved;
};

struct way {
	u64 calls;              /* that returned bytes; faults */
	u64 bytes;
	u64 first;              /* begin of the first and end of the last */
	u64 last;
	u64 begun;              /* calls, and asynchronous requests */
	u64 depth;              /* sum over them of how many were under way, themselves included */
	u64 deepest;
	u64 flying;
	u64 largest;            /* bytes of one call */
	u64 size;               /* of the file */
	u32 sizes[SIZES_MAX];   /* calls by their bytes */
};

/* A mapping of a process that is a file's in memory, a dma-buf's or a device's. */
struct region {
	u64 start;
	u64 end;                /* == start: none */
	u64 ino;
	u32 dev;
	u32 kind;               /* enum target */
};

struct regions {
	u32 missed;             /* mappings for which there was no room */
	u32 reserved;
	struct region at[REGIONS_MAX];
};

/* A system call that prepares or ends a load. */
struct call_event {
	u32 type;
	u32 what;               /* enum call */
	u32 tid;
	u32 tgid;
	u64 at;
	u64 ino;                /* of the file, dma-buf, ... */
	u64 address;
	u64 length;
	u64 size;               /* of that file */
	u64 other;              /* CALL_UDMABUF: inode of the memfd; CALL_MMAP: offset in the file */
	u32 dev;
	u32 other_dev;
	u32 flags;              /* of open, mmap; the advice */
	u32 prot;
	u32 kind;               /* enum target */
	s32 fd;
	char exporter[16];
	char path[PATH_MAX_KEPT];
};

/* One per traced thread, and the EV_SNAPSHOT record up to `stack`. */
struct thread {
	u32 type;
	u32 kind;               /* enum snap_kind */
	u32 load_id;
	u32 window;
	u64 at;                 /* when the snapshot was taken */
	u32 tid;
	u32 tgid;
	char comm[16];
	u64 last;               /* last transition */
	u32 depth;
	u32 over;               /* entries beyond DEPTH_MAX still open */
	u32 phase;              /* of the innermost frame */
	u32 mode;
	u64 woken;              /* when, until it is on a CPU; else 0 */
	u64 off;                /* since when it is off its CPU; else 0 */
	u32 owner;              /* tid it works for, where it is a worker; else 0 */
	u32 late;               /* enum late */
	u64 counters[COUNTER_MAX];
	u32 hits[HOOK_MAX];
	struct cell cells[PHASE_MAX];
	struct frame stack[DEPTH_MAX];
	struct run runs[RUN_MAX];
	struct file_key reading;        /* file of the read under way, and where it began */
	u64 reading_at;
	struct file_key faulting;       /* of the fault, whose vma may be gone at its end */
	u64 faulting_at;
	u64 heap;               /* name of the dma-heap it asked last   */
	struct way_key way;     /* of the read under way; its path is WAY_NONE where there is none */
	u64 source;             /* struct file that the system call takes bytes from */
	u64 sink;               /* and that it gives them to; 0 but for splice and its like */
	u32 call;               /* number of the system call under way, or NO_CALL */
	u32 call_dev;           /* of the memfd that an ioctl makes a dma-buf of, */
	u64 call_ino;           /* or 0 */
	u64 call_length;
};

struct request_event {
	u32 type;
	u32 op;                 /* REQ_OP_*, 0 = read */
	u32 tid;
	u32 tgid;
	u32 dev;
	u32 error;
	u64 sector;
	u64 bytes;
	u64 queue_ns;
	u64 issue_ns;
	u64 complete_ns;
	u64 ino;                /* of the file, 0 where it is not known */
	u32 file_dev;           /* its s_dev; of a block device's own pages that device, and ino 0 */
	u32 kind;               /* enum request_kind */
	u32 phase;              /* the submitter's */
	u32 reserved;
};

struct buffer_event {
	u32 type;
	u32 kind;               /* enum buffer_kind */
	u32 tid;
	u32 tgid;
	u64 at;
	u64 ino;
	u64 size;
	char exporter[16];
	char heap[16];          /* of the dma-heap, or empty */
};

struct interval_event {
	u32 type;
	u32 phase;
	u32 tid;
	u32 tgid;
	u32 hook;
	u32 reserved;
	u64 start;
	u64 end;
};

/* A thread off its CPU: blocked from start to woken, runnable from there to end. */
struct wait_event {
	u32 type;
	u32 phase;
	u32 tid;
	u32 tgid;
	u64 start;
	u64 woken;
	u64 end;
};

/* A traced thread on its CPU when the clock ticked; written up to `bytes` of `ips`. */
struct sample {
	u32 type;
	u32 bytes;              /* of ips; 0: user space */
	u32 tid;
	u32 tgid;
	u32 phase;              /* of the innermost frame: whose cell the time goes to */
	u32 mode;
	u64 at;
	u64 ips[FRAMES_MAX];  /* kernel stack, innermost first */
};

struct file_pages {
	u64 added;
	u64 removed;
	u64 removed_self;       /* by a traced thread */
	u64 peak;               /* of added - removed since tracing began */
	u64 added_self;         /* by a traced thread */
	u64 readahead;          /* of added_self: by readahead */
	u64 refaulted;          /* of added_self: evicted by reclaim before */
	u64 shmem;              /* 1: its folios are shmem's */
	u64 by[REMOVED_MAX];    /* of removed, by enum removal */
	u64 self_by[REMOVED_MAX];       /* of removed_self */
};

/* What traced threads read of one file, by path. */
struct file_io {
	u64 direct;             /* bytes that direct I/O completed */
	u64 direct_calls;
	u64 einval;             /* direct I/O calls that failed, by errno */
	u64 efault;
	u64 errors;             /* any other, EAGAIN aside */
	u64 buffered;           /* bytes copied out of its folios by read calls */
	u64 fallback;           /* of these, by a file that is open with O_DIRECT */
	u64 spliced;            /* bytes a pipe took by reference */
	u64 offsets;            /* OR of positions and lengths of direct calls */
	u64 memory;             /* OR of their buffers' addresses, where they are user's */
};

#endif
