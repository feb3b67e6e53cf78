"""What the runs of paper.py measured, out of their folders."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from many_runs import Unit
from omegaconf import OmegaConf

__all__ = ["gather"]

Record = dict[str, Any]


def gather(units: Mapping[str, Sequence[Unit]], merges: Sequence[str]) -> Record:
    """`parts` of benchmarks/results/paper.json: lists are by seed, null where a run is not finished."""
    return {part: _part(group, merges if part == "ama" else ()) for part, group in units.items()}


def _part(units: Sequence[Unit], merges: Sequence[str]) -> Record:
    places = {label: [one.place(label) for one in units] for label in units[0].runs}
    places = {label: [p if (p / units[0].mark).is_file() else None for p in found] for label, found in places.items()}
    beside = {f"merge_{how}": [_merge(place, how) for place in places["uniform"]] for how in merges}
    scores: dict[str, list[Record | None]] = {}
    for label, found in (places | beside).items():
        scores[label] = [place and _scores(place) for place in found]
        rounds = [_rounds(place) if place else [] for place in found]
        for number in range(max(map(len, rounds), default=0)):
            scores[f"{label}, round {number}"] = [
                _scores(place / "rounds" / str(number)) if place and number < len(entries) else None
                for place, entries in zip(found, rounds, strict=True)
            ]
    some = next((place for found in places.values() for place in found if place), None)
    return {
        **(_about(some) if some else {}),
        "seeds": len(units),
        "scores": {label: _by_measure(found) for label, found in scores.items()},
        "objective_along": {label: [place and _along(place) for place in found] for label, found in places.items()},
        "rounds": {
            label: [_rounds(place) if place else None for place in found]
            for label, found in places.items()
            if label.startswith("ideal")
        },
    }


def _merge(place: Path | None, how: str) -> Path | None:
    folder = place and place.with_name(f"{place.name}_merge_{how}")
    return folder if folder and (folder / "eval.json").is_file() else None


def _by_measure(found: Sequence[Record | None]) -> Record:
    """Measure -> values by seed; `loss` by task."""
    names = next((list(one) for one in found if one), [])
    return {name: [one and one[name] for one in found] for name in names}


def _scores(folder: Path) -> Record:
    tasks = json.loads((folder / "eval.json").read_text())["tasks"]
    loss = {task: row["loss"] for task, row in tasks.items()}
    measured = {"mean_loss": _mean(loss.values()), "worst_loss": max(loss.values())}
    if all("excess" in row for row in tasks.values()):
        excess = [row["excess"] for row in tasks.values()]
        measured |= {"worst_excess": max(excess), "mean_excess": _mean(excess)}
        measured["worst_gap"] = max(row["gap"] for row in tasks.values())
    cost = json.loads((folder / "cost.json").read_text())
    behind = sum(part["cpu_seconds"] for part in cost.get("leans_on", {}).values())
    measured |= {"cpu_seconds": cost["cpu_seconds"], "cpu_seconds_before": behind}
    return measured | {"accuracy": _mean([row["accuracy"] for row in tasks.values()]), "loss": loss}


def _mean(values: Any) -> float:
    numbers = [*values]
    return sum(numbers) / len(numbers)


def _along(folder: Path) -> Record | None:
    """Largest mean over the validations so far of a task's excess, after each of them; None without excess.

    By Jensen's inequality it bounds the objective of the average of these iterates, where losses are convex.
    """
    path = folder / "metrics.csv"
    with path.open(newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if v and k != "epoch"} for row in csv.DictReader(file)]
    rows = [row for row in rows if any(name.startswith("eval_excess/") for name in row)]
    if not rows:
        return None
    names = [name for name in rows[0] if name.startswith("eval_excess/")]
    values = [max(_mean([row[name] for row in rows[: n + 1]]) for name in names) for n in range(len(rows))]
    return {"steps": [int(row["step"]) for row in rows], "worst_mean_excess": values}


def _rounds(folder: Path) -> list[Record]:
    """Volumes, and the predicted and actual change of each target's loss since the round before, nats."""
    entries = json.loads((folder / "eval.json").read_text()).get("rounds", [])
    kept = ("round", "volumes", "steps", "target_loss", "predicted_change", "change")
    return [{name: entry[name] for name in kept if name in entry} for entry in entries]


def _about(folder: Path) -> Record:
    config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    identity = json.loads((folder / "identity.json").read_text())["rows"]
    rows = {task: {split: table["rows"] for split, table in splits.items()} for task, splits in identity.items()}
    kept = {name: config[name] for name in ("batch_size",)} | {"max_length": config["data"]["max_length"]}
    result = json.loads((folder / "eval.json").read_text())
    return {"objective": result["objective"], "steps": result["steps"], **kept, "rows": rows}
