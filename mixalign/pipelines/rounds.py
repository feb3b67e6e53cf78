"""Rounds of training for mixers that decide volumes: train, measure what more of each task would do, change, repeat.

Every round begins at the same start and has a folder of its own, `rounds/<n>/`. A run that was interrupted goes on in
the folder where it stopped.
"""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mixalign.evaluation.rounds import rounds_table
from mixalign.files import write_json
from mixalign.influence.benefit import measure
from mixalign.influence.layers import chosen_layers
from mixalign.influence.settings import Influence, Reading
from mixalign.mixers.base import Mixer, MixSignal
from mixalign.mixers.fixed import Temperature
from mixalign.models.load import add_lora
from mixalign.pipelines.build import build
from mixalign.pipelines.generalist import train_generalist
from mixalign.pipelines.job import Job
from mixalign.pipelines.ranks import agree, is_first, rank, score_on_ranks, total, wait, world
from mixalign.pipelines.stages import Frozen, load_frozen
from mixalign.scoring.score import frozen_losses
from mixalign.training.checkpoints import newest_checkpoint
from mixalign.training.meter import Meter

__all__ = ["in_rounds", "run_rounds"]

log = logging.getLogger(__name__)

KEPT = ("mixture.json", "mix.jsonl", "metrics.csv")  # files of the best round that its run has as well


def in_rounds(mixer: Mixer) -> bool:
    """Whether the mixer decides between trainings, and not while one runs."""
    return "benefit_K" in mixer.needs


def run_rounds(job: Job, mixer: Any, reference: Frozen, judged: bool, run_dir: Path) -> dict[str, Any]:
    """Trains round after round, and gives the run what the best of them made.

    Args:
        mixer: reads `benefit_K` and keeps `volume_K` in its state; has `rounds`, `budget`, `size_weighting` and `stop`.
        judged: whether the rows carry specialists' losses.

    Returns:
        What `eval.json` holds; `rounds` has one entry a round.
    """
    _check_layers(job, reference)
    work = _Rounds(job, mixer, reference, judged, run_dir / "rounds")
    rows_K = torch.tensor([len(d) for d in job.data["train"]], dtype=torch.float64)
    state = mixer.init(rows_K)[1]
    told: list[dict[str, Any]] = []
    for number in range(mixer.rounds + 1):
        told.append(work.train(number, [int(n) for n in state["volume_K"]]))
        if number == mixer.rounds or _ends(mixer, told, "mean_reference_loss"):
            break
        told[-1] |= work.benefit(number, told[-1])
        if _ends(mixer, told, "benefit"):
            break
        found = [torch.tensor(list(told[-1][key].values()), dtype=torch.float64) for key in ("benefit", "confidence")]
        signal = MixSignal(number, torch.ones_like(rows_K), benefit_K=found[0], confidence_K=found[1])
        state = mixer.update(signal, state)[1]
    return _finish(run_dir, told)


def _check_layers(job: Job, reference: Frozen) -> None:
    """Refuses layers that the model does not have, before the first round is trained."""
    pattern, lora = job.cfg.influence.layers, build(job.cfg.lora)
    if pattern != "." or lora is not None:
        chosen_layers(add_lora(reference.build(), lora), pattern)


@dataclass
class _Rounds:
    """The work of one round, each part done once: what is on disk is read."""

    job: Job
    mixer: Any
    reference: Frozen
    judged: bool
    folder: Path

    def train(self, number: int, volume_K: list[int]) -> dict[str, Any]:
        """One training on these volumes; its losses on the reference tables."""
        job, folder = self.job, self.folder / str(number)
        path = folder / "round.json"
        if agree(path.is_file()):
            return json.loads(path.read_text())
        rows = sum(len(d) for d in job.data["train"])
        steps = job.cfg.steps if self.mixer.budget == "steps" else max(1, round(job.cfg.steps * sum(volume_K) / rows))
        said = ", ".join(f"{task} {n:,}" for task, n in zip(job.tasks, volume_K, strict=True))
        log.info("round %d of %d: %d steps on %s", number + 1, self.mixer.rounds + 1, steps, said)
        if not agree((folder / "eval.json").is_file()):
            how = {"volume_K": volume_K, "steps": steps, "resume": newest_checkpoint(folder)}
            folder.mkdir(parents=True, exist_ok=True)
            train_generalist(job, Temperature(1.0), self.reference, self.judged, folder, export="last", **how)
        wait()
        losses = _reference_losses(job, load_frozen(folder / "model", self.reference))
        log.info("round %d: mean reference loss %.4f", number + 1, np.mean(list(losses.values())))
        entry = {
            "round": number,
            "volumes": dict(zip(job.tasks, volume_K, strict=True)),
            "steps": steps,
            "reference_loss": losses,
            "mean_reference_loss": float(np.mean(list(losses.values()))),
        }
        _write(path, entry)
        return entry

    def benefit(self, number: int, entry: dict[str, Any]) -> dict[str, Any]:
        """What more of each task would do for the reference loss of a round's model."""
        job, folder = self.job, self.folder / str(number)
        path = folder / "benefit.json"
        if agree(path.is_file()):
            return json.loads(path.read_text())
        model = load_frozen(folder / "model", self.reference, trainable=True).to(job.device)
        with tqdm(desc=f"influence {number + 1}", unit="row", leave=False, disable=not job.cfg.progress) as bar:
            reading = Reading(
                batch_size=min(16, job.cfg.eval_batch_size),
                layout=job.layout,
                precision=str(job.cfg.trainer.precision),
                on_batch=lambda done, total: _show(bar, done, total),
                rank=rank(),
                world=world(),
                reduce=total,
            )
            domains, volume_K = job.data["train"], list(entry["volumes"].values())
            influence: Influence = build(job.cfg.influence)
            with Meter(job.device) as cost:
                found = measure(
                    model, job.reference_objective, domains, job.references, influence, reading, volume_K=volume_K
                )
        _write(folder / "cost_influence.json", cost.state_dict())
        how = {"budget": self.mixer.budget, "size_weighting": self.mixer.size_weighting}
        by_task = {
            "benefit": found.score(**how),
            "confidence": found.confidence(self.mixer.budget),
            "identity": found.identity(**how),
            "rows_read": found.rows_K,
        }
        measured: dict[str, Any] = {
            key: dict(zip(job.tasks, value.tolist(), strict=True)) for key, value in by_task.items()
        }
        measured |= {"residual": found.residual, "curvature": influence.curvature, "layers": len(found.layers)}
        _write(path, measured)
        return measured


def _reference_losses(job: Job, model: torch.nn.Module) -> dict[str, float]:
    """Mean loss on each reference table, nats."""
    model = model.to(job.device)
    names = list(dict.fromkeys([*job.tasks, *(d.task for d in job.references)]))
    precision, losses = str(job.cfg.trainer.precision), {}
    for dataset in job.references:
        table = score_on_ranks(model, dataset, {}, job.cfg.eval_batch_size, job.layout, precision)
        loss_N = frozen_losses(job.reference_objective, dataset, table.align(dataset), names.index(dataset.task))
        losses[dataset.task] = float(loss_N.mean(dtype=np.float64))
    return losses


def _ends(mixer: Any, told: list[dict[str, Any]], key: str) -> bool:
    """Whether the last round is the last, and why: its loss has not fallen, or its benefits point back."""
    if not mixer.stop or len(told) < 2:
        return False
    before, now = told[-2][key], told[-1][key]
    if key == "mean_reference_loss":
        reason = "the reference loss has not fallen" if now >= before else ""
    else:
        turned = sum(before[task] * now[task] for task in now) < 0
        reason = "the benefits point the other way than in the round before" if turned else ""
    if reason:
        told[-1]["stopped"] = reason
        log.info("the rounds end here: %s", reason)
    return bool(reason)


def _finish(run_dir: Path, told: list[dict[str, Any]]) -> dict[str, Any]:
    """Copies what the best round made."""
    best = min(told, key=lambda entry: entry["mean_reference_loss"])
    folder = run_dir / "rounds" / str(best["round"])
    result = json.loads((folder / "eval.json").read_text())
    result |= {"rounds": told, "best_round": best["round"]}
    if is_first():
        shutil.copytree(folder / "model", run_dir / "model", dirs_exist_ok=True)
        for name in KEPT:
            if (folder / name).is_file():
                shutil.copy(folder / name, run_dir / name)
        write_json(run_dir / "eval.json", result)
        print(rounds_table(told, best["round"]))
    wait()
    return result


def _show(bar: Any, done: int, total: int) -> None:
    bar.total, bar.n = total, done
    bar.refresh()


def _write(path: Path, content: dict[str, Any]) -> None:
    if is_first():
        write_json(path, content)
    wait()
