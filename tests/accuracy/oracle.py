"""The bpftrace script beside the strategies, as far as a guest's kernel can run it."""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import Path

from tests.guest.lab import Lab
from tests.guest.watched import ORACLE

#: What only this table is made of: time between marks.
_MORE = """
tracepoint:syscalls:sys_enter_prctl /args.option == 0x444D5452 && args.arg2 == 1/ {
	@begun[tid] = nsecs;
}
tracepoint:syscalls:sys_enter_prctl /args.option == 0x444D5452 && args.arg2 == 2 && @begun[tid]/ {
	@wall[args.arg3] = sum(nsecs - @begun[tid]);
	delete(@begun[tid]);
}
"""
#: A disk's own time, of all reads.
#: Raw, because perf's tracepoints are not heard where an interrupt meets another program.
_DISK = """
rawtracepoint:block_rq_issue {
	$r = (struct request *)arg0;
	if (($r->cmd_flags & 0xff) == 0 && $r->part != 0 && $r->part->bd_dev == DISK) {
		@sent[arg0] = nsecs;
	}
}
rawtracepoint:block_rq_complete /@sent[arg0]/ {
	@disk_ns = sum(nsecs - @sent[arg0]);
	@disk_requests = count();
	delete(@sent[arg0]);
}
"""
#: The same by the functions that those tracepoints are in: bpftrace 0.17 has no raw ones.
_DISK_OLD = """
kfunc:blk_mq_start_request {
	$r = args->rq;
	if (($r->cmd_flags & 0xff) == 0 && $r->part != 0 && $r->part->bd_dev == DISK) {
		@sent[(uint64)args->rq] = nsecs;
	}
}
kfunc:blk_update_request /@sent[(uint64)args->req]/ {
	@disk_ns = sum(nsecs - @sent[(uint64)args->req]);
	@disk_requests = count();
	delete(@sent[(uint64)args->req]);
}
"""
#: Direct reads of kernels that have no tracepoint where they end: synchronous ones alone.
_DIRECT = """
kretprobe:iomap_dio_complete /@in[tid] && (int64)retval > 0/ {
	@direct[@load[tid]] = sum((int64)retval);
}
"""
#: A read of the page cache into a pipe takes references where it has an iterator of its own for
#: that (ITER_PIPE, before v6.5), and copies nothing.
_COPIED = """kretprobe:filemap_read /@in[tid] && (int64)retval > 0/ {
	@copied[@load[tid]] = sum((int64)retval);
}
"""
_COPIED_OLD = """kprobe:filemap_read /@in[tid]/ {
	@pipe[tid] = ((struct iov_iter *)arg1)->iter_type == 3;
}
kretprobe:filemap_read /@in[tid] && (int64)retval > 0 && @pipe[tid] == 0/ {
	@copied[@load[tid]] = sum((int64)retval);
}
kretprobe:filemap_read /@in[tid] && (int64)retval > 0 && @pipe[tid]/ {
	@spliced[@load[tid]] = sum((int64)retval);
}
"""
_PROBE = re.compile(r"^(kprobe|kretprobe|kfunc|tracepoint|rawtracepoint):([\w:]+)", re.MULTILINE)
_BLOCK = re.compile(r"^(?!/\*)[a-zE][^{}]*?\{\n.*?^\}\n", re.MULTILINE | re.DOTALL)


def disk(lab: Lab) -> int:
    """The data disk, as the kernel's own dev_t: include/linux/kdev_t.h."""
    numbers = lab.must("cat /sys/class/block/$(basename $(findmnt -no SOURCE /data))/dev")
    major, minor = numbers.strip().split(":")
    return int(major) << 20 | int(minor)


def script(lab: Lab, *, module: bool, workers: bool) -> Path:
    """A file of the guest's, without what its kernel lacks; ``module``: ours will be loaded.

    ``workers``: io_uring's are to be told apart, by members that older kernels do not have.
    """
    listed = lab.must(
        "sed 's/ .*//' /sys/kernel/tracing/available_filter_functions;"
        " cd /sys/kernel/tracing/events; for e in */*/; do echo ${e%/} | tr / :; done;"
        " sed -n 's/.* __tracepoint_/rawtracepoint:/p' /proc/kallsyms"
    )
    found = lab.shared / "oracle.bt"
    known = set(listed.split())
    if not workers:
        known.discard("io_wq_submit_work")
    # Before bpftrace 0.18, a tracepoint's arguments are behind a pointer alone.
    old = lab.shell("bpftrace --version").out.strip().startswith("bpftrace v0.17")
    text = ORACLE.read_text() + _MORE
    text += (_DISK_OLD if old else _DISK).replace("DISK", str(disk(lab)))
    text = fitting(text, known, module=module)
    found.write_text(text.replace("args.", "args->") if old else text)
    return found


def fitting(text: str, known: Set[str], *, module: bool) -> str:
    """``text`` without the probes of what is not ``known``.

    That has functions, tracepoints as CATEGORY:NAME, and rawtracepoint:NAME.
    """

    def there(kind: str, name: str) -> bool:
        found = f"{kind}:{name}" if kind == "rawtracepoint" else name
        return found in known or (module and name.startswith("dmatrace_loader_"))

    def block(match: re.Match[str]) -> str:
        head, brace, body = match[0].partition("{")
        names = _PROBE.findall(head)
        kept = [f"{kind}:{name}" for kind, name in names if there(kind, name)]
        if not names or len(kept) == len(names):
            return match[0]
        if not kept:
            return ""
        _, _, rest = head.rpartition(":".join(names[-1]))
        return ",\n".join(kept) + rest + brace + body

    if "filemap_splice_read" not in known:
        text = text.replace(_COPIED, _COPIED_OLD).replace("END {\n", "END {\n\tclear(@pipe);\n")
    fits = _BLOCK.sub(block, text)
    for cleared in set(re.findall(r"clear\((@\w+)\)", fits)):
        # A map that nobody fills any more is none to bpftrace.
        if not re.search(rf"{cleared}\[[^\]]*\] = ", fits):
            fits = re.sub(rf"^\s*clear\({cleared}\);\n", "", fits, flags=re.MULTILINE)
    return fits if "rawtracepoint:iomap_dio_complete" in fits else fits + _DIRECT
