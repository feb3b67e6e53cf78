"""Finds the run folders that `write_run` made; what their trainings cost."""

from pathlib import Path
from typing import Any

from mixalign.reporting.read.labels import find_runs
from mixalign.reporting.read.runs import Run


def ignores(key: str) -> bool:
    """What tells one made-up run of a label from another."""
    return key.split(".")[0] in ("run_dir", "name", "paths") or key.split(".")[-1] == "seed"


def find(*paths: Path) -> list[Run]:
    """All runs at or below these folders."""
    return find_runs(paths, ignores)


def training(steps: int = 100, cpu: float = 10.0, memory: float | None = 50.0, **leans_on: Any) -> dict[str, Any]:
    """A cost.json."""
    return {
        "steps": steps,
        "seconds": 2 * cpu,
        "cpu_seconds": cpu,
        "memory_mib": memory,
        "memory_of": "process",
        "leans_on": leans_on,
    }


def before(steps: int, cpu: float | None) -> dict[str, Any]:
    """What a cost.json says of trainings that had to be there."""
    return {"steps": steps, "seconds": None if cpu is None else 2 * cpu, "cpu_seconds": cpu}


# kind of run -> its files, optimizer steps by part, steps beyond plain training, CPU seconds
COSTS: dict[str, Any] = {
    "plain": ({"cost.json": training()}, {"training": 100}, 0, 10.0),
    "excess": (
        {"cost.json": training(specialists=before(600, 30.0))},
        {"training": 100, "specialists": 600},
        600,
        40.0,
    ),
    "rounds": (
        {f"rounds/{d}/cost.json": training() for d in range(3)}
        | {"rounds/0/cost_influence.json": {"seconds": 8.0, "cpu_seconds": 4.0, "memory_mib": 90.0}},
        {"rounds": 300},
        200,
        34.0,
    ),
    "proxy": (
        {"cost.json": training(), "proxy/cost.json": training(baseline=before(100, 9.0))},
        {"training": 100, "proxy": 100, "baseline": 100},
        200,
        29.0,
    ),
    "merge": ({"cost.json": training(0, 0.5, specialists=before(600, 30.0))}, {"specialists": 600}, 500, 30.5),
}
