"""What runs cost beyond plain training: optimizer steps, time and memory, read from `cost.json` and its kin."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixalign.errors import MixalignError
from mixalign.reporting.read.files import number, read_object

__all__ = ["TRAINING", "Cost", "included", "read_cost", "times_text", "unit"]

TRAINING = "training"  # the part that is the training of the run itself

EARLIER = "earlier"  # folder with results of the run before it was extended, whose cost the newer ones include


@dataclass(frozen=True)
class Cost:
    """What one run cost, with everything that had to be there before: its specialists, its baseline, its proxy.

    Attributes:
        steps: optimizer steps by what they were for: `training` of the run itself, `rounds`, `proxy`, `specialists` ...
        plain: optimizer steps of a training with a mixture that stays: those of the configuration.
        seconds: in all, by the clock; NaN when a part is not known. `cpu_seconds`: of all threads of the first process.
        memory_mib: the most that a part took above what was held before it; NaN when unknown.
        on_gpu: whether the memory is a GPU's.
    """

    steps: dict[str, int]
    plain: float
    seconds: float
    cpu_seconds: float
    memory_mib: float
    on_gpu: bool

    @property
    def extra_steps(self) -> float:
        """Optimizer steps beyond those of plain training, never below 0; NaN where these are not known."""
        made = self.steps.get(TRAINING, self.plain)  # fewer, where a callback ended the training
        beyond = sum(self.steps.values()) - min(self.plain, made)
        return 0.0 if beyond < 0 else beyond

    @property
    def time(self) -> float:
        """Seconds of the device that works: of the GPU by the clock, of the CPU as the system counts them."""
        return self.seconds if self.on_gpu else self.cpu_seconds

    @property
    def text(self) -> str:
        """Both times, and what they are of: `80 s by the clock, 40 CPU s, specialists included`; empty: not known."""
        times = times_text(self.seconds, self.cpu_seconds)
        return f"{times}, {included(self.steps)}" if times else ""


def times_text(seconds: float, cpu_seconds: float) -> str:
    """`80 s by the clock, 40 CPU s`; without one that is not known."""
    times = {"s by the clock": seconds, "CPU s": cpu_seconds}
    return ", ".join(f"{value:,.0f} {what}" for what, value in times.items() if not math.isnan(value))


def unit(on_gpu: bool) -> str:
    """Of `Cost.time`."""
    return "GPU s" if on_gpu else "CPU s"


def included(parts: Iterable[str]) -> str:
    """What a time is of beside the training of the run: `specialists and proxy included`."""
    names = [name for name in parts if name != TRAINING]
    return f"{' and '.join(names)} included" if names else "of the training alone"


def read_cost(path: Path, plain: float) -> Cost | None:
    """What the `cost*.json` of a run folder and of the trainings in it add up to; None when there is none.

    Args:
        plain: optimizer steps of a training with a mixture that stays; NaN when nobody knows.
    """
    files = [file for file in sorted(path.rglob("cost*.json")) if EARLIER not in file.relative_to(path).parts]
    found = [(file, _record(file)) for file in files]
    records = [(file, record) for file, record in found if not record.get("sums_up")]  # of files that are read as well
    if not records:
        return None
    parts: list[tuple[str, Mapping[str, Any]]] = []
    for file, record in records:
        folders = file.relative_to(path).parts[:-1]
        parts.append((folders[0] if folders else TRAINING, record))
        parts += [(name, _mapping(entry)) for name, entry in _mapping(record.get("leans_on")).items()]
    steps: dict[str, int] = {}
    for name, record in parts:
        if (count := number(record.get("steps"))) > 0:
            steps[name] = steps.get(name, 0) + int(count)
    seconds, cpu_seconds = (sum(number(record.get(key)) for _, record in parts) for key in ("seconds", "cpu_seconds"))
    memory = [number(record.get("memory_mib")) for _, record in records]
    on_gpu = any(record.get("memory_of") == "cuda" for _, record in records)
    return Cost(steps, plain, seconds, cpu_seconds, math.nan if any(map(math.isnan, memory)) else max(memory), on_gpu)


def _record(path: Path) -> Mapping[str, Any]:
    """What a file says; empty when it cannot be read, so that its part of the cost is not known."""
    try:
        return read_object(path)
    except MixalignError:
        return {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
