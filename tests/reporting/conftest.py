"""Run folders made of made-up numbers."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mixalign.reporting.read.runs import Run
from tests.reporting.made_up import find

TASKS = ("helpful", "format", "safe", "reverse", "compare", "taste")
STATIC = ("proportional", "uniform", "temperature", "schedule", "fixed")
Writer = Callable[..., Path]


def eval_of(excess: Mapping[str, float | None], *, mixer: str, seed: int, objective: str = "dpo") -> dict[str, Any]:
    """An eval.json whose losses are excess + 0.3, gaps excess - 0.05 and accuracies 0.9 - excess."""
    tasks = {
        name: {"rows": 250, "loss": 0.5, "accuracy": 0.9, "margin": 1.5}
        if value is None
        else {
            "rows": 250,
            "loss": value + 0.3,
            "accuracy": 0.9 - value,
            "margin": 1.5,
            "specialist_loss": 0.35,
            "gap": value - 0.05,
            "excess": value,
        }
        for name, value in excess.items()
    }
    mean, worst = {}, {}
    for key, pick in (("loss", max), ("accuracy", min), ("excess", max), ("gap", max)):
        known = {name: row[key] for name, row in tasks.items() if key in row}
        if known:
            task = pick(known, key=known.__getitem__)
            mean[key], worst[key] = sum(known.values()) / len(known), {"task": task, "value": known[task]}
    head = {"mixer": mixer, "objective": objective, "seed": seed, "split": "test", "static": mixer in STATIC}
    return {**head, "tasks": tasks, "mean": mean, "worst": worst}


def _mix_lines(target_K: np.ndarray, steps: int, rng: np.random.Generator, weighs: bool) -> list[dict[str, Any]]:
    """Shares that move from uniform to the target, and excess that falls where the share is large."""
    num_tasks = len(target_K)
    uniform_K = np.full(num_tasks, 1 / num_tasks)
    lines = []
    for step in range(1, steps + 1):
        pace = 1 - np.exp(-6 * step / steps)
        alpha_K = (1 - pace) * uniform_K + pace * target_K
        excess_K = 0.5 * np.exp(-step / steps * 8 * alpha_K) + rng.normal(0, 0.03, num_tasks)
        seen_K = rng.random(num_tasks) > 0.2
        lines.append(
            {
                "step": step,
                "sample": uniform_K.tolist() if weighs else alpha_K.tolist(),
                "loss": alpha_K.tolist() if weighs else None,
                "excess": [float(e) if ok else None for e, ok in zip(excess_K, seen_K, strict=True)],
                "task_loss": [float(e) + 0.3 if ok else None for e, ok in zip(excess_K, seen_K, strict=True)],
                "count": [7 if ok else 0 for ok in seen_K],
            }
        )
    return lines


def _write_metrics(path: Path, tasks: Sequence[str], lines: Sequence[dict[str, Any]]) -> None:
    """Sparse columns: a training row and a validation row every tenth of the run."""
    names = [f"eval_excess/{task}" for task in tasks] + [f"eval_loss/{task}" for task in tasks]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["step", "train/loss", "eval/worst_excess", *names])
        writer.writeheader()
        for line in lines[9 :: max(1, len(lines) // 10)]:
            excess = [0.5 * np.exp(-line["step"] / len(lines) * 9 * share) for share in line["loss"] or line["sample"]]
            row = dict(zip(names, [*excess, *(value + 0.3 for value in excess)], strict=True))
            writer.writerow({"step": line["step"], "train/loss": 0.6})
            writer.writerow({"step": line["step"], "eval/worst_excess": max(excess), **row})


@pytest.fixture
def write_run(tmp_path: Path) -> Writer:
    """Writes a run folder below tmp_path; by default a finished one with all files."""

    def write(
        mixer: str,
        seed: int,
        excess: Mapping[str, float | None] | None = None,
        *,
        folder: str | None = None,
        finished: bool = True,
        history: bool = True,
        metrics: bool = True,
        steps: int = 40,
        target: Sequence[float] | None = None,
        objective: str = "dpo",
        mixer_settings: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        rounds: Any = None,
        best_round: int | None = None,
        costs: Mapping[str, Mapping[str, Any]] | None = None,
        scores: Mapping[str, Any] | None = None,
    ) -> Path:
        excess = excess or dict.fromkeys(TASKS, 0.1)
        path = tmp_path / (folder or f"runs/{mixer}_{seed}")
        path.mkdir(parents=True)
        config = {"name": path.name, "run_dir": str(path), "seed": seed, "steps": steps}
        config |= {
            "mixer": {"name": mixer, **(mixer_settings or {})},
            "objective": {"name": objective, "beta": 0.5},
        }
        (path / "config.yaml").write_text(yaml.safe_dump({**config, **(settings or {})}), encoding="utf-8")
        if finished:
            results = eval_of(excess, mixer=mixer, seed=seed, objective=objective)
            if rounds is not None:
                results |= {"rounds": rounds, "best_round": best_round}
            (path / "eval.json").write_text(json.dumps({**results, **(scores or {})}), encoding="utf-8")
        num_tasks = len(excess)
        target_K = np.array(target if target is not None else [1 / num_tasks] * num_tasks)
        weighs = mixer in ("ama_r", "group_dro")
        lines = _mix_lines(target_K, steps, np.random.default_rng(seed), weighs)
        if history:
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (path / "mix.jsonl").write_text(text, encoding="utf-8")
            (path / "mixture.json").write_text(json.dumps(_mixture_of(list(excess), lines)), encoding="utf-8")
        for name, cost in (costs or {}).items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(json.dumps(cost), encoding="utf-8")
        if metrics:
            _write_metrics(path / "metrics.csv", list(excess), lines)
        return path

    return write


def _mixture_of(tasks: Sequence[str], lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rows = [sum(line["count"][k] for line in lines) for k in range(len(tasks))]
    sample, loss = lines[-1]["sample"], lines[-1]["loss"] or [1.0] * len(tasks)
    mixture = {
        "tasks": list(tasks),
        "sample_final": sample,
        "sample_mean": sample,
        "loss_final": loss,
        "loss_mean": loss,
    }
    return {**mixture, "rows_seen": rows, "epochs_seen": [count / 400 for count in rows], "steps": len(lines)}


@pytest.fixture
def write_scores(write_run: Writer, tmp_path: Path) -> Callable[..., list[Run]]:
    """Writes runs with one score a seed, by label: a run's worst excess."""

    def write(**worst: Sequence[float]) -> list[Run]:
        for label, values in worst.items():
            for seed, value in enumerate(values):
                write_run(label, seed, {"a": 0.01, "b": value}, history=False, metrics=False)
        return find(tmp_path)

    return write
