"""The callback that closes the loop: measure, reduce over ranks, update the mixture, apply it, remember it."""

import json
import logging
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import lightning as L
import numpy as np
import torch
from torch import Tensor

from mixalign.errors import MixalignError, did_you_mean
from mixalign.files import adding_to, write_text
from mixalign.losses.excess import clip_mean
from mixalign.metrics.task_mean import OnItsWay, TaskMean, sum_dtype
from mixalign.mixers.base import PROBED, Mix, Mixer, MixSignal, State
from mixalign.mixers.diagnostics import Moment, alternating, diverging
from mixalign.mixers.simplex import normalise
from mixalign.mixers.wrapped import rule_of

__all__ = ["Mixing"]

log = logging.getLogger(__name__)
OnNan = Literal["raise", "skip", "quarantine"]
WINDOW = 50  # updates between two looks at the path of the weights


class Mixing(L.Callback):
    """Runs a mixer: one update for each optimizer step, in effect from the next global batch on.

    Args:
        mixer: the rule.
        tasks: names of the K tasks.
        rows_K: training rows of each task.
        history: file that gets one JSON line an update; None writes none.
        on_nan: what happens when a task's loss is not finite. The weights never take such a step. `raise` ends the
            run; `skip` goes on with the next batch; `quarantine` also gives the task no weight any more.
    """

    def __init__(
        self,
        mixer: Mixer,
        tasks: list[str],
        rows_K: list[int],
        history: Path | None = None,
        on_nan: OnNan = "raise",
    ) -> None:
        if on_nan not in get_args(OnNan):
            raise MixalignError(f"`on_nan` is {on_nan!r}. {did_you_mean(str(on_nan), get_args(OnNan))}")
        self.on_nan = on_nan
        self.banned_K = torch.zeros(len(tasks), dtype=torch.bool)  # tasks in quarantine
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
        unknown_K = torch.full((len(tasks),), torch.nan, dtype=torch.float64)
        self._no_eval: dict[str, Any] = {"eval_loss_K": unknown_K, "eval_excess_K": unknown_K}
        self._eval = self._no_eval  # validated since the last update

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

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        found = {name: value_K.to("cpu", torch.float64) for name, value_K in pl_module.evaluation.items()}
        excess_K = found.get(
            "excess" if self.mixer.clip == "sample" else "gap", torch.full_like(found["loss"], torch.nan)
        )
        self._eval = {"eval_loss_K": found["loss"], "eval_excess_K": clip_mean(excess_K, self.mixer.clip)}

    def _update(self, trainer: Any, pl_module: Any) -> None:
        self.signal, bad_K = self._measure(pl_module)
        self._sample_sum_K += self.mix.sample_K
        self._loss_sum_K += self._loss_factor()
        self._remember(trainer)
        if not bad_K.any():
            self.mix, self.state = self.mixer.update(self.signal, self.state)
            self._eval = self._no_eval
        elif self.on_nan == "quarantine":
            self.banned_K |= bad_K
        if self.banned_K.any():
            self.mix = self._without_banned()
        self.updates += 1
        self._apply(trainer, pl_module)
        self._look_back()

    def _measure(self, pl_module: Any) -> tuple[MixSignal, Tensor]:
        """Means over all ranks and micro-batches of the step, and tasks whose loss is not finite (K,).

        Waits for the last forward pass, not for the step.
        """
        assert self._arriving is not None
        found = self._arriving.by_name()
        count_K, loss_K = found["count"], found["loss"]
        bad_K = (count_K > 0) & ~loss_K.isfinite()
        if bad_K.any():
            self._bad(bad_K)
        loss_iw_K = (loss_K * count_K / self.mix.sample_K).nan_to_num(0.0) / count_K.sum()
        signal = MixSignal(self.updates, count_K, loss_K, loss_iw_K=loss_iw_K, eval_loss_K=self._eval["eval_loss_K"])
        signal = replace(signal, **self._take_probed(pl_module))
        if found["excess"].isnan().all():
            return signal, bad_K
        clip = self.mixer.clip
        weighted_K = (found["weighted"] * count_K).nan_to_num(0.0) / count_K.sum()
        excess_K, weighted_K = clip_mean(found["excess"], clip), clip_mean(weighted_K, clip)
        return replace(signal, excess_K=excess_K, excess_iw_K=weighted_K, **self._eval), bad_K

    def _take_probed(self, pl_module: Any) -> dict[str, Any]:
        """What probes measured after this step; nan for what the mixer reads and they did not."""
        found: dict[str, Any] = dict(pl_module.probed)
        num_tasks = len(self.tasks)
        pl_module.probed.clear()
        for name in (self.mixer.needs & PROBED) - {*found}:
            found[name] = torch.full((num_tasks,) * name.count("K"), torch.nan, dtype=torch.float64)
        return found

    def _bad(self, bad_K: Tensor) -> None:
        """Raises, or says which tasks spoilt a step."""
        names = "`, `".join(task for task, bad in zip(self.tasks, bad_K, strict=True) if bad)
        what = f"The loss of task `{names}` is not finite at step {self.updates}."
        if self.on_nan == "raise":
            raise MixalignError(
                f"{what} The weights did not take that step. Look for rows of that task that are far from the rest, "
                "lower `optimizer.lr`, or go on without such steps: `on_nan=skip`, or `on_nan=quarantine`."
            )
        if self.on_nan == "quarantine" and (self.banned_K | bad_K).all():
            raise MixalignError(f"{what} No task is left that is not in quarantine. Lower `optimizer.lr`.")
        log.warning("%s The step is skipped%s.", what, ", and so is the task from now on" * (self.on_nan != "skip"))

    def _without_banned(self) -> Mix:
        """The mixture with nothing for the tasks in quarantine."""
        left_K = (~self.banned_K).double()

        def kept(weight_K: Tensor) -> Tensor:
            weight_K = weight_K * left_K
            return normalise(weight_K if weight_K.sum() > 0 else left_K)

        return Mix(kept(self.mix.sample_K), None if self.mix.loss_K is None else kept(self.mix.loss_K))

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
        with adding_to(self.history), self.history.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _forget_later_steps(self) -> None:
        """Cuts the history at the checkpoint that a resumed run goes on from."""
        if self.history is not None and self.history.is_file():
            lines = self.history.read_text().splitlines(keepends=True)
            write_text(self.history, "".join(lines[: self.updates]))

    def _look_back(self) -> None:
        if len(self._path) == self._path.maxlen and self.updates % WINDOW == 0 and self.mixer.needs:
            path = list(self._path)
            if not hasattr(rule_of(self.mixer), "asks"):  # those that ask for probes may take turns on purpose
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
            "banned_K": self.banned_K.clone(),
            "eval": dict(self._eval),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state = dict(state_dict["mixer"])
        self.mix = Mix(**state_dict["mix"])
        self.updates = state_dict["updates"]
        self._sample_sum_K = state_dict["sample_sum_K"].clone()
        self._loss_sum_K = state_dict["loss_sum_K"].clone()
        self.banned_K = state_dict["banned_K"].clone()
        self._eval = dict(state_dict["eval"])


def _plain(value_K: Tensor | None) -> list[float | None] | None:
    """JSON numbers, null where nothing was measured."""
    if value_K is None:
        return None
    return [None if x != x else round(x, 8) for x in value_K.tolist()]
