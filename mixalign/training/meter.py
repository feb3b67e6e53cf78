"""What a piece of work costs: seconds and memory."""

import ctypes
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["Meter"]

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MIB = 2**20


class Meter:
    """Adds up the seconds, and takes the peak of memory, of what runs inside `with`.

    Attributes:
        seconds: by the clock on the wall.
        cpu_seconds: of all threads of this process; on a machine that is busy with other work the better measure.
        memory_mib: the peak above what was held when the work began. On `cuda` of what torch has allocated on this
            process's device; else of the whole process, in pages, which only Linux tells: None elsewhere. In a process
            that has worked before, memory that was freed and not given back hides some of it.
        work: kind -> units of what it was, for estimates; see `mixalign.course`.
        steps: optimizer steps of a training that ended before those that it was to have.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.seconds = self.cpu_seconds = 0.0
        self.memory_mib: float | None = None
        self.work: Mapping[str, float] = {}
        self.steps: int | None = None
        self._began: tuple[float, float] | None = None
        self._held: float | None = None

    def __enter__(self) -> "Meter":
        self._held = _forget_peak(self.device)
        self._began = _now()
        return self

    def __exit__(self, *_: Any) -> None:
        self.lap()
        self._began = None

    def lap(self) -> None:
        """Takes in what has run since the last call."""
        if self._began is None:
            return
        now, began = _now(), self._began
        self.seconds += now[0] - began[0]
        self.cpu_seconds += now[1] - began[1]
        self._began = now
        peak = torch.cuda.max_memory_allocated() / MIB if self.device == "cuda" else _status("VmHWM")
        if peak is not None and self._held is not None:
            self.memory_mib = max(peak - self._held, self.memory_mib or 0.0)

    def state_dict(self) -> dict[str, Any]:
        """What was measured until now, as plain data."""
        self.lap()
        return {
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "memory_mib": self.memory_mib,
            "memory_of": "cuda" if self.device == "cuda" else "process",
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what an earlier process measured."""
        self.seconds, self.cpu_seconds, self.memory_mib = (
            state[key] for key in ("seconds", "cpu_seconds", "memory_mib")
        )


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _forget_peak(device: str) -> float | None:
    """Has the peak counted anew; MiB that are held now, None where nobody tells."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / MIB
    try:
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what was freed, and would serve the work from it
        RESET.write_text("5")
    except (AttributeError, OSError, TypeError):
        return None
    return _status("VmRSS")


def _status(key: str) -> float | None:
    """A line of Linux's account of this process, in MiB."""
    lines = STATUS.read_text().splitlines() if STATUS.is_file() else []
    values = [line.split()[1] for line in lines if line.startswith(f"{key}:")]
    return int(values[0]) / 1024 if values else None
