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
#define PHASE_OUTER 0xff  /* of a hook that stays in the phase around it */

enum mode { MODE_CPU, MODE_BLOCKED, MODE_RUNNABLE };

enum event_type { EV_SNAPSHOT = 1, EV_REQUEST, EV_BUFFER, EV_INTERVAL };
/* What is not known yet of a thread that ran when it was first followed. */
enum late { LATE_NOT, LATE_FRAMES, LATE_ALL };
enum lost { LOST_RING, LOST_ROOM, LOST_MAX };
enum snap_kind { SNAP_BEGIN = 1, SNAP_END, SNAP_FORK, SNAP_EXIT, SNAP_WORK_BEGIN, SNAP_WORK_END };
enum buffer_kind { BUFFER_EXPORT = 1, BUFFER_RELEASE };

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
	COUNT_SCHED_RUN_NS,        /* task->se.sum_exec_runtime when it ended */
	COUNT_SCHED_WAIT_NS,       /* task->sched_info.run_delay when it ended */
	COUNT_CACHE_ADDED,      /* page cache that this thread added      */
	COUNT_CACHE_REMOVED,    /* and removed                            */
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
	u32 owner;              /* tid it works for, where it is a worker; else 0 */
	u32 late;               /* enum late */
	u64 counters[COUNTER_MAX];
	u32 hits[HOOK_MAX];
	struct cell cells[PHASE_MAX];
	struct frame stack[DEPTH_MAX];
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

struct file_key {
	u64 ino;
	u64 dev;                /* s_dev as the tracepoint prints it: MAJOR << 20 | MINOR */
};

struct file_pages {
	u64 added;
	u64 removed;
	u64 removed_self;       /* by a traced thread */
	u64 peak;               /* of added - removed since tracing began */
};

#endif
