"""Threads of torch on a CPU: how many, and how they wait for each other."""

import os
from math import ceil
from pathlib import Path

from mixalign.training.control_groups import OWN, ROOT, folders_of, text_of

__all__ = ["usable_cpus", "wait_passively"]


def wait_passively() -> None:
    """Has OpenMP's threads sleep while they wait, unless the environment says otherwise; of no effect behind torch.

    By default those of libgomp spin 300,000 times first, some milliseconds at the end of each of the thousands of
    parallel regions of a forward pass. On a machine with other work a thread then spins away the time in which the
    thread that it waits for could run. Measured on two cores shared with about ten other processes, a model of 135 M
    weights, bfloat16, CPU seconds to score a row of 48 tokens: 1 thread .12-.20, 2 threads that spin 1.3-1.7, 2 that
    sleep .12; on the clock .3-.9, 3.9-6.5 and .6 s. The numbers that come out are the same.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def usable_cpus(own: Path = OWN, root: Path = ROOT) -> int:
    """CPUs that this process may use: its affinity, and the quota of its container, which torch does not look at.

    Args:
        own: the file that names the control group of this process.
        root: where control groups are.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in folders_of("cpu", own, root) if (quota := _quota(folder))]
    return max(1, min([affinity, *(ceil(quota) for quota in quotas)]))


def _quota(folder: Path) -> float | None:
    """CPUs that a control group may use, or None where it has no limit."""
    quota, _, period = text_of(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = text_of(folder / "cpu.cfs_quota_us"), text_of(folder / "cpu.cfs_period_us")
    try:
        return float(quota) / float(period) if float(quota) > 0 else None
    except (ValueError, ZeroDivisionError):
        return None  # `max`, or no such file
