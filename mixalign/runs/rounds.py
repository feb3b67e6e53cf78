"""Rounds of training for rules that decide volumes: train, measure what more of each task would do, change, repeat.

Every round begins at the same start and has a folder of its own, `rounds/<n>/`. A run that was interrupted goes on in
the folder where it stopped.
"""

import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixalign.bars import progress
from mixalign.course import span
from mixalign.files import read_json, read_numbers, write_json
from mixalign.fingerprint import fingerprint
from mixalign.frozen.cache import load_frozen
from mixalign.frozen.score import score_on_ranks
from mixalign.influence.benefit import Benefit, measure
from mixalign.influence.layers import chosen_layers
from mixalign.influence.settings import Reading
from mixalign.jobs.job import Job, rows_fingerprint
from mixalign.mixers.base import MixSignal, State
from mixalign.mixers.fixed import Temperature
from mixalign.mixers.ideal import Budget
from mixalign.models.load import add_lora
from mixalign.models.precision import cast_weights
from mixalign.objectives.frozen_losses import frozen_losses
from mixalign.runs.influence_cost import TimeEstimate, influence_of, influence_text, sum_of_rounds
from mixalign.runs.portable import export_base
from mixalign.runs.promises import actual_change, broken_promise, no_loss, predicted_change, without_impossible
from mixalign.runs.rounds_table import rounds_table
from mixalign.runs.shared_rounds import round_recipe, shared_influence, shared_round
from mixalign.runs.summary import write_results
from mixalign.runs.train_one import Generalist, train_generalist
from mixalign.stopping import stage
from mixalign.terminal import say_result
from mixalign.together.agree import agree, is_first, rank, total, wait, world
from mixalign.training.checkpoints import newest_checkpoint
from mixalign.training.meter import Meter

__all__ = ["run_rounds"]

log = logging.getLogger(__name__)

KEPT = ("mixture.json", "mix.jsonl", "metrics.csv")  # files of the best round that its run has as well
RAISED = "influence %d: damping raised from %g to %g: with less, a benefit could not be true by the size of the loss"
Entry = dict[str, Any]
"""What `eval.json` holds of one round."""


def run_rounds(run: Generalist, mixer: Any) -> dict[str, Any]:
    """Trains round after round, and gives the run what the best of them made.

    Args:
        run: of the whole; its steps are those of the first round.
        mixer: reads `benefit_K` and keeps `volume_K` in its state; has `rounds`, `budget`, `size_weighting`, `stop`.

    Returns:
        What `eval.json` holds; `rounds` has one entry a round.
    """
    _check_layers(run)
    work = _Rounds(run, mixer)
    rows_K = run.job.rows_K
    state = mixer.init(rows_K)[1]
    entries: list[Entry] = []
    for number in range(mixer.rounds + 1):
        volumes = _named(run, state)
        entry = work.train(number, volumes)
        if entries:
            entry |= predicted_change(entries[-1], volumes) | actual_change(entries[-1], entry)
        entries.append(entry)
        if _ends(entries, no_loss(entry)):
            break
        if number == mixer.rounds or (mixer.stop and _ends(entries, _has_not_fallen(entries))):
            break
        entry |= work.benefit(number, entry)
        entry["confidence"] = without_impossible(entry)
        if mixer.stop and _ends(entries, _has_turned(entries)):
            break
        benefit_K, confidence_K = (
            torch.tensor(list(entry[key].values()), dtype=torch.float64) for key in ("benefit", "confidence")
        )
        signal = MixSignal(number, torch.ones_like(rows_K), benefit_K=benefit_K, confidence_K=confidence_K)
        state = mixer.update(signal, state)[1]
        if _ends(entries, broken_promise(entry)):
            break
    return _finish(run.folder, entries)


def _named(run: Generalist, state: State) -> dict[str, int]:
    """Whole rows of each task."""
    return dict(zip(run.job.tasks, map(int, state["volume_K"].tolist()), strict=True))


def _check_layers(run: Generalist) -> None:
    """Refuses layers that the model does not have, before the first round is trained."""
    settings = run.job.settings
    if settings.influence.layers != "." or settings.lora is not None:
        chosen_layers(add_lora(run.reference.build(), settings.lora), settings.influence.layers)


@dataclass(frozen=True)
class _Rounds:
    """The work of one round, each part done once: what is on disk is read."""

    run: Generalist
    mixer: Any

    def folder(self, number: int) -> Path:
        return self.run.folder / "rounds" / str(number)

    def train(self, number: int, volumes: dict[str, int]) -> Entry:
        """One training on these volumes; its losses on the target tables."""
        job, folder = self.run.job, self.folder(number)
        path = folder / "round.json"
        if agree(path.is_file()):
            return {key.replace("reference_loss", "target_loss"): value for key, value in read_numbers(path).items()}
        steps = self._steps(list(volumes.values()))
        parts = ", ".join(f"{task} {rows:,}" for task, rows in volumes.items())
        log.info("round %d of 0 to %d: %d steps on %s", number, self.mixer.rounds, steps, parts)
        if not agree((folder / "eval.json").is_file()):
            self._fill(number, volumes, steps)
        wait()
        losses = _target_losses(job, load_frozen(folder / "model", self.run.reference))
        mean = float(np.mean(list(losses.values())))
        log.info("round %d: mean target loss %.4f", number, mean)
        entry = {"round": number, "volumes": volumes, "steps": steps, "target_loss": losses, "mean_target_loss": mean}
        _write(path, entry)
        return entry

    def _fill(self, number: int, volumes: dict[str, int], steps: int) -> None:
        """Trains a round in its folder; round 0 may be in the cache."""
        folder = self.folder(number)

        def train() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            export = self.run.export if self.run.export == "averaged" else "last"
            name = f"round {number}"
            one = replace(self.run, mixer=Temperature(1.0), folder=folder, export=export, steps=steps, stage=name)
            train_generalist(replace(one, volume_K=list(volumes.values()), resume=newest_checkpoint(folder)))

        if number == 0:
            shared_round(self.run, round_recipe(self.run, volumes, steps), folder, train)
        else:
            train()

    def _steps(self, volume_K: list[int]) -> int:
        if self.mixer.budget == "steps":
            return self.run.steps
        return max(1, round(self.run.steps * sum(volume_K) / sum(map(len, self.run.job.data["train"]))))

    def benefit(self, number: int, entry: Entry) -> Entry:
        """What more of each task would do for the target loss of a round's model."""
        path = self.folder(number) / "benefit.json"
        if agree(path.is_file()):
            return read_numbers(path)
        if number == 0:
            recipe = self._influence_recipe(entry)
            result = shared_influence(self.run, recipe, lambda: self._measured(number, entry))
        else:
            result = self._measured(number, entry)
        _write(self.folder(number) / "cost_influence.json", result.pop("cost"))
        least = self.run.job.settings.influence.damping
        if result.get("damping", least) > least:
            log.info(RAISED, number, least, result["damping"])
        _write(path, result)
        return result

    def _influence_recipe(self, entry: Entry) -> Entry:
        """All that decides what is measured of a round."""
        return {
            "stage": "influence",
            "round": fingerprint(round_recipe(self.run, entry["volumes"], entry["steps"])),
            "influence": self.run.job.settings.plain["influence"],
            "targets": rows_fingerprint(self.run.job.targets),
            "budget": self.mixer.budget,
            "size_weighting": self.mixer.size_weighting,
        }

    def _measured(self, number: int, entry: Entry) -> Entry:
        job = self.run.job
        influence = influence_of(job)
        model = load_frozen(self.folder(number) / "model", self.run.reference, trainable=True).to(job.device)
        job.course.enter(f"influence {number}")
        shown = progress(job.course.title(f"influence {number}"), None, "rows", disabled=not job.settings.progress)
        say = TimeEstimate(lambda seconds: log.info("influence %d: it will take about %s", number, span(seconds)))
        log.info("influence %d: %s", number, influence_text(job))
        with stage(f"the influence of round {number}"), shown as bar, Meter(job.device) as cost:
            measured = measure(
                cast_weights(model, job.precision),
                job.target_objective,
                job.data["train"],
                job.targets,
                influence,
                _reading(job, bar.update, say),
                volume_K=list(entry["volumes"].values()),
                target_loss=entry["mean_target_loss"],
                budget=self.mixer.budget,
            )
        job.course.worked("influence", 1.0, cost.seconds)
        options = {"budget": self.mixer.budget, "size_weighting": self.mixer.size_weighting}
        by_task = {
            "benefit": measured.score(**options),
            "confidence": measured.confidence(self.mixer.budget),
            "identity": measured.identity(**options),
            "rows_read": measured.rows_K,
        }
        result: Entry = {key: dict(zip(job.tasks, value_K.tolist(), strict=True)) for key, value_K in by_task.items()}
        result |= {"residual": measured.residual, "curvature": influence.curvature, "layers": len(measured.layers)}
        if influence.is_curved:
            result |= {"damping": measured.damping, "benefit_by_target": _by_target(measured, self.mixer.budget)}
        return result | {"cost": cost.state_dict()}


def _reading(job: Job, on_batch: Any, on_share: Any) -> Reading:
    return Reading(
        batch_size=min(16, job.eval_batch_size, job.micro_batch_size or 16),
        layout=job.layout,
        precision=job.precision,
        on_batch=on_batch,
        on_share=on_share,
        rank=rank(),
        world=world(),
        reduce=total,
    )


def _by_target(measured: Benefit, budget: Budget) -> dict[str, dict[str, float]]:
    """Target table -> task -> benefit of a relative change of its volume."""
    rows = measured.by_target(budget).tolist()
    return {t: dict(zip(measured.domains, row, strict=True)) for t, row in zip(measured.tables, rows, strict=True)}


def _target_losses(job: Job, model: torch.nn.Module) -> dict[str, float]:
    """Mean loss on each target table, nats."""
    model = model.to(job.device)
    names = list(dict.fromkeys([*job.tasks, *(table.task for table in job.targets)]))
    losses = {}
    for table in job.targets:
        scores = score_on_ranks(model, table, {}, job.eval_batch_size, job.layout, job.precision)
        loss_N = frozen_losses(job.target_objective, table, scores.align(table), names.index(table.task))
        losses[table.task] = table.mean(loss_N, np.float64)
    return losses


def _has_not_fallen(entries: list[Entry]) -> str:
    key = "mean_target_loss"
    fell = len(entries) < 2 or entries[-1][key] < entries[-2][key]
    return "" if fell else "the target loss has not fallen"


def _has_turned(entries: list[Entry]) -> str:
    if len(entries) < 2:
        return ""
    before, now = entries[-2]["benefit"], entries[-1]["benefit"]
    turned = sum(before[task] * now[task] for task in now) < 0
    return "the benefits point the other way than in the round before" if turned else ""


def _ends(entries: list[Entry], reason: str) -> bool:
    """Whether the last round is the last; notes and says why."""
    if reason:
        entries[-1]["stopped"] = reason
        log.info("the rounds end here: %s", reason)
    return bool(reason)


def _finish(run_dir: Path, entries: list[Entry]) -> dict[str, Any]:
    """Copies what the best round made; a loss that is not finite is none, and only the last round's may be."""
    best = min(entries, key=lambda entry: np.nan_to_num(entry["mean_target_loss"], nan=np.inf))
    folder = run_dir / "rounds" / str(best["round"])
    result = read_json(folder / "eval.json") | {"rounds": entries, "best_round": best["round"]}
    if is_first():
        shutil.copytree(folder / "model", run_dir / "model", dirs_exist_ok=True)
        export_base(run_dir, folder)
        for name in KEPT:
            if (folder / name).is_file():
                shutil.copy(folder / name, run_dir / name)
        write_json(run_dir / "cost.json", sum_of_rounds(run_dir / "rounds", [entry["round"] for entry in entries]))
        write_results(run_dir / "eval.json", result)
        say_result(rounds_table(entries, best["round"]))
    wait()
    return result


def _write(path: Path, content: Entry) -> None:
    if is_first():
        write_json(path, content)
    wait()
