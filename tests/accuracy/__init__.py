"""Every figure beside an independent one: what docs/ACCURACY.md is made of.

    python -m tests.accuracy [--kernel 6.12]... [-o docs/ACCURACY.md]

In a guest of each kernel, workloads whose numbers are known are recorded, and
what others saw of them (the workload itself, fincore, /proc, /sys/block, cgroup
files, bpftrace) is held against the report.
"""
