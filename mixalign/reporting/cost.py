"""What runs cost beyond plain training: optimizer steps, time and memory, read from `cost.json` and its kin."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixalign.reporting.statistics import Paired, Score

__all__ = ["Cost", "Spent", "read_cost", "spent"]

OWN = "training"


@dataclass(frozen=True)
class Cost:
    """What one run cost, with everything that had to be there before: its specialists, its baseline, its proxy.

    Attributes:
        steps: optimizer steps by what they were for: `training` of the run itself, `rounds`, `proxy`, `specialists` ...
        plain: optimizer steps of a training with a mixture that stays: those of the configuration.
        seconds: in all; NaN when a part is not known. `cpu_seconds`: of all threads of the first process.
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
        return sum(self.steps.values()) - self.plain

    @property
    def time(self) -> float:
        """Seconds of the device that works: of the GPU by the clock, of the CPU as the system counts them."""
        return self.seconds if self.on_gpu else self.cpu_seconds


@dataclass(frozen=True)
class Spent:
    """The costs of one label over its seeds, and beyond those of plain training on the same seeds.

    Attributes:
        extra_steps: optimizer steps beyond those of plain training, mean over seeds.
        parts: what they were for, with their steps on the first seed.
        time: seconds. `memory`: MiB.
        times: seconds as multiples of plain training's, seed by seed; nothing where no run is plain.
        more_memory: MiB minus plain training's, seed by seed.
    """

    extra_steps: Score
    parts: dict[str, int]
    time: Score
    memory: Score
    times: Score
    more_memory: Paired


def read_cost(path: Path, plain: float) -> Cost | None:
    """What the `cost*.json` of a run folder and of the trainings in it add up to; None when there is none.

    Args:
        plain: optimizer steps of a training with a mixture that stays; NaN when nobody knows.
    """
    found = [(file, _object(file)) for file in sorted(path.rglob("cost*.json"))]
    if not found:
        return None
    parts: list[tuple[str, Mapping[str, Any]]] = []
    for file, record in found:
        folders = file.relative_to(path).parts[:-1]
        parts.append((folders[0] if folders else OWN, record))
        parts += [(name, _mapping(entry)) for name, entry in _mapping(record.get("leans_on")).items()]
    steps: dict[str, int] = {}
    for name, record in parts:
        if count := record.get("steps"):
            steps[name] = steps.get(name, 0) + int(count)
    seconds, cpu_seconds = (sum(_number(record.get(key)) for _, record in parts) for key in ("seconds", "cpu_seconds"))
    memory = [_number(record.get("memory_mib")) for _, record in found]
    on_gpu = any(record.get("memory_of") == "cuda" for _, record in found)
    return Cost(steps, plain, seconds, cpu_seconds, math.nan if any(map(math.isnan, memory)) else max(memory), on_gpu)


def spent(costs: Mapping[str, Mapping[int, Cost]], plain: str | None) -> dict[str, Spent]:
    """The costs by label, from those by label and seed.

    Args:
        plain: the label of plain training; None when there is none.
    """
    base = costs.get(plain or "", {})
    return {label: _spent(by_seed, base) for label, by_seed in costs.items() if by_seed}


def _spent(mine: Mapping[int, Cost], base: Mapping[int, Cost]) -> Spent:
    seeds = [seed for seed in sorted(mine) if seed in base]
    times = [mine[seed].time / base[seed].time for seed in seeds if base[seed].time]
    memory, plain = ([costs[seed].memory_mib for seed in seeds] for costs in (mine, base))
    costs = [mine[seed] for seed in sorted(mine)]
    return Spent(
        Score.of([cost.extra_steps for cost in costs]),
        {name: count for name, count in costs[0].steps.items() if name != OWN},
        Score.of([cost.time for cost in costs]),
        Score.of([cost.memory_mib for cost in costs]),
        Score.of(times),
        Paired.between(memory, plain),
    )


def _object(path: Path) -> Mapping[str, Any]:
    """A record; empty when it cannot be read, so that what it would say is not known."""
    try:
        return _mapping(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
