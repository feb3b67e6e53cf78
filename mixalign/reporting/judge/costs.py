"""What the runs of one label cost, and what beyond plain training on the same seeds."""

from collections.abc import Mapping
from dataclasses import dataclass

from mixalign.reporting.judge.statistics import Paired, Score
from mixalign.reporting.read.costs import TRAINING, Cost, unit

__all__ = ["Spent", "spent"]


@dataclass(frozen=True)
class Spent:
    """The costs of one label over its seeds, and beyond those of plain training on the same seeds.

    Attributes:
        extra_steps: optimizer steps beyond those of plain training, mean over seeds.
        parts: what they were for, with their steps on the first seed.
        clock: seconds by the clock. `cpu`: those of the CPU. `time`: the one of them that counts, in `unit`.
        memory: MiB.
        times: seconds as multiples of plain training's, seed by seed; nothing where no run is plain.
        more_memory: MiB minus plain training's, seed by seed.
    """

    extra_steps: Score
    parts: dict[str, int]
    clock: Score
    cpu: Score
    time: Score
    memory: Score
    times: Score
    more_memory: Paired
    unit: str = "CPU s"


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
        {name: count for name, count in costs[0].steps.items() if name != TRAINING},
        Score.of([cost.seconds for cost in costs]),
        Score.of([cost.cpu_seconds for cost in costs]),
        Score.of([cost.time for cost in costs]),
        Score.of([cost.memory_mib for cost in costs]),
        Score.of(times),
        Paired.between(memory, plain),
        unit(costs[0].on_gpu),
    )
