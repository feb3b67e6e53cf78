"""The callback that closes the loop: measure, reduce over ranks, update the mixture, apply it, remember it."""

import json
import logging
from collections import deque
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from mixalign.errors import MixalignError
from mixalign.losses.excess import clip_mean
from mixalign.metrics.task_mean import OnItsWay, TaskMean, sum_dtype
from mixalign.mixers.base import Mix, Mixer, MixSignal, State
from mixalign.mixers.diagnostics import Moment, alternating, diverging

__all__ = ["Mixing"]

log = logging.getLogger(__name__)
WINDOW = 50  # updates between two looks at the path of the weights


class Mixing(L.Callback):
    """Runs a mixer: one update for each optimizer step, in effect from the next global batch on.

    Args:
        mixer: the rule.
        tasks: names of the K tasks.
        rows_K: training rows of each task.
        history: file that gets one JSON line an update; None writes none.
    """

    def __init__(self, mixer: Mixer, tasks: list[str], rows_K: list[int], history: Path | None = None) -> None:
        self.mixer, self.tasks, self.rows_K, self.history = mixer, tasks, rows_K, history
        self.mix: Mix
        self.state: State
        self.mix, self.state = mixer.init(torch.tensor(rows_K, dtype=torch.float64))
        self.signal: MixSignal | None = None  # what the last update saw
        self.updates = 0
        self._sample_sum_K = torch.zeros(len(tasks), dtype=torch.float64)
        self._loss_sum_K = torch.zeros(len(tasks), dtype=torch.float64)
        self._path: deque[Moment] = deque(maxlen=2 * WINDOW)
        self._warned: set[str] = set()
        self._sums: TaskMean | None = None
        self._micro_batches = 0
        self._arriving: OnItsWay | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        # before the loader's first draw, which Lightning makes ahead of `on_train_start`
        if stage == "fit":
            self._apply(trainer, pl_module)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._sums = TaskMean(["loss", "excess", "weighted"], len(self.tasks), sum_dtype(pl_module.device))
        self._sums.to(pl_module.device)
        self._apply(trainer, pl_module)
        if trainer.is_global_zero:
            self._forget_later_steps()
        caution = getattr(self.mixer, "caution", None)
        self._warn("caution", caution and caution(len(self.tasks), trainer.datamodule.sampler.batch_size))

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        # here, so that a GPU runs the backward pass while its numbers travel and the mixer thinks
        assert self._sums is not None
        seen = pl_module.measured
        excess_B = seen.get("excess_B", torch.full_like(seen["loss_B"], torch.nan))
        weighted_B = excess_B / seen["draw_prob_B"]
        self._sums.update(seen["task_B"], loss=seen["loss_B"], excess=excess_B, weighted=weighted_B)
        self._micro_batches += 1
        if self._micro_batches % trainer.accumulate_grad_batches == 0:
            self._arriving = self._sums.send()
            self._sums.reset()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step > self.updates:  # the last micro-batch of an optimizer step
            self._update(trainer, pl_module)

    def _update(self, trainer: Any, pl_module: Any) -> None:
        self.signal = self._measure()
        self._sample_sum_K += self.mix.sample_K
        self._loss_sum_K += self._loss_factor()
        self._remember(trainer)
        self.mix, self.state = self.mixer.update(self.signal, self.state)
        self.updates += 1
        self._apply(trainer, pl_module)
        self._look_back()

    def _measure(self) -> MixSignal:
        """Means over all ranks and micro-batches of the step; waits for the last forward pass, not for the step."""
        assert self._arriving is not None
        found = self._arriving.by_name()
        count_K, loss_K = found["count"], found["loss"]
        bad = [t for t, n, x in zip(self.tasks, count_K, loss_K, strict=True) if n > 0 and not x.isfinite()]
        if bad:
            raise MixalignError(
                f"The loss of task `{'`, `'.join(bad)}` is not finite at step {self.updates}. Nothing was saved since "
                "the last checkpoint. Look for rows of that task that are far from the rest, or lower "
                "`optimizer.lr`."
            )
        if found["excess"].isnan().all():
            return MixSignal(self.updates, count_K, loss_K)
        clip = self.mixer.clip
        weighted_K = (found["weighted"] * count_K).nan_to_num(0.0) / count_K.sum()
        return MixSignal(self.updates, count_K, loss_K, clip_mean(found["excess"], clip), clip_mean(weighted_K, clip))

    def _apply(self, trainer: Any, pl_module: Any) -> None:
        trainer.datamodule.sampler.set_mixture(self.mix.sample_K)
        pl_module.mix_loss_K = self.mix.loss_K

    def _loss_factor(self) -> Tensor:
        return torch.ones_like(self.mix.sample_K) if self.mix.loss_K is None else self.mix.loss_K

    def _remember(self, trainer: Any) -> None:
        """Writes the mixture of this step and what was measured under it."""
        signal, mix = self.signal, self.mix
        assert signal is not None
        measured_K = signal.loss_K if signal.excess_K is None else signal.excess_K
        assert measured_K is not None
        self._path.append(Moment(mix.alpha_K, measured_K))
        if self.history is None or not trainer.is_global_zero:
            return
        line = {"step": self.updates, "sample": _plain(mix.sample_K), "loss": _plain(mix.loss_K)}
        line |= {"excess": _plain(signal.excess_K), "task_loss": _plain(signal.loss_K)}
        line["count"] = [int(n) for n in signal.count_K]
        with self.history.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _forget_later_steps(self) -> None:
        """Cuts the history at the checkpoint that a resumed run goes on from."""
        if self.history is not None and self.history.is_file():
            lines = self.history.read_text().splitlines(keepends=True)
            self.history.write_text("".join(lines[: self.updates]))

    def _look_back(self) -> None:
        if len(self._path) == self._path.maxlen and self.updates % WINDOW == 0 and self.mixer.needs:
            path = list(self._path)
            self._warn("alternating", alternating(path, self.tasks))
            self._warn("diverging", diverging(path, self.tasks))

    def _warn(self, kind: str, text: str | None) -> None:
        """Says each kind of warning once a run."""
        if text and kind not in self._warned:
            self._warned.add(kind)
            log.warning("%s", text)

    def summary(self, sampler) -> dict[str, Any]:
        """What `mixture.json` holds: final and mean weights, rows and epochs seen, by task."""
        steps = max(1, self.updates)
        return {
            "tasks": self.tasks,
            "sample_final": self.mix.sample_K.tolist(),
            "sample_mean": (self._sample_sum_K / steps).tolist(),
            "loss_final": self._loss_factor().tolist(),
            "loss_mean": (self._loss_sum_K / steps).tolist(),
            "rows_seen": np.asarray(sampler.cursor_K).tolist(),
            "epochs_seen": np.round(sampler.epochs_K, 4).tolist(),
            "steps": self.updates,
        }

    def state_dict(self) -> dict[str, Any]:
        mix = {"sample_K": self.mix.sample_K}
        if self.mix.loss_K is not None:
            mix["loss_K"] = self.mix.loss_K
        return {
            "mixer": dict(self.state),
            "mix": mix,
            "updates": self.updates,
            "sample_sum_K": self._sample_sum_K.clone(),
            "loss_sum_K": self._loss_sum_K.clone(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state = dict(state_dict["mixer"])
        self.mix = Mix(**state_dict["mix"])
        self.updates = state_dict["updates"]
        self._sample_sum_K = state_dict["sample_sum_K"].clone()
        self._loss_sum_K = state_dict["loss_sum_K"].clone()


def _plain(value_K: Tensor | None) -> list[float | None] | None:
    """JSON numbers, null where nothing was measured."""
    if value_K is None:
        return None
    return [None if x != x else round(x, 8) for x in value_K.tolist()]
