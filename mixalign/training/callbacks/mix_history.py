"""The path of a mixture: a line for each update, its means over the run, and warnings when it does not settle."""

import json
import logging
from collections import deque
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixalign.data.batches.sampler import MixtureSampler
from mixalign.files import adding_to, write_text
from mixalign.mixers.base import Mix, MixSignal, Rule
from mixalign.mixers.diagnostics import Moment, alternating, diverging

__all__ = ["HistoryFile"]

log = logging.getLogger(__name__)
WINDOW = 50  # updates between two looks at the path of the weights


class HistoryFile:
    """Remembers the mixtures of a run.

    Args:
        mixer: the rule, which says what is no sign of trouble.
        tasks: names of the K tasks.
        path: `mix.jsonl`, which gets one JSON line an update; None writes none.
    """

    def __init__(self, mixer: Rule, tasks: list[str], path: Path | None = None) -> None:
        self.mixer, self.tasks, self.path = mixer, tasks, path
        self.sample_sum_K = torch.zeros(len(tasks), dtype=torch.float64)
        self.loss_sum_K = torch.zeros(len(tasks), dtype=torch.float64)
        self._moments: deque[Moment] = deque(maxlen=2 * WINDOW)
        self._warned: set[str] = set()

    def add(self, step: int, mix: Mix, signal: MixSignal, *, write: bool) -> None:
        """Takes in the mixture of a step and what was measured under it.

        Args:
            step: counted from 1, as in metrics.csv.
            write: whether this is the process that writes the file.
        """
        self.sample_sum_K += mix.sample_K
        self.loss_sum_K += _loss_factor(mix)
        measured_K = signal.loss_K if signal.excess_K is None else signal.excess_K
        assert measured_K is not None
        self._moments.append(Moment(mix.alpha_K, measured_K))
        if self.path is None or not write:
            return
        line = {"step": step, "sample": _plain(mix.sample_K), "loss": _plain(mix.loss_K)}
        line |= {"excess": _plain(signal.excess_K), "task_loss": _plain(signal.loss_K)}
        line["count"] = [int(n) for n in signal.count_K]
        with adding_to(self.path), self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def forget_after(self, updates: int) -> None:
        """Drops the lines of later steps, which a run that goes on from there will write again, and a torn one."""
        if self.path is None or not self.path.is_file():
            return
        lines = [json.loads(line) for line in self.path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
        if lines and lines[0]["step"] == 0:  # of a version that counted steps from 0
            lines = [line | {"step": line["step"] + 1} for line in lines]
        kept = [json.dumps(line) + "\n" for line in lines if line["step"] <= updates]
        write_text(self.path, "".join(kept))

    def look_back(self, updates: int) -> None:
        """Warns when the weights take turns or run away, every so many updates."""
        if len(self._moments) == self._moments.maxlen and updates % WINDOW == 0 and not self.mixer.static:
            moments = list(self._moments)
            if self.mixer.cadence != "interval":  # those that ask for probes may take turns on purpose
                self.warn("alternating", alternating(moments, self.tasks))
            self.warn("diverging", diverging(moments, self.tasks))

    def warn(self, kind: str, text: str | None) -> None:
        """Says each kind of warning once a run."""
        if text and kind not in self._warned:
            self._warned.add(kind)
            log.warning("%s", text)

    def summary(self, updates: int, mix: Mix, sampler: MixtureSampler) -> dict[str, Any]:
        """What `mixture.json` holds: final and mean weights, rows and epochs seen, by task; what the rule reads."""
        steps = max(1, updates)
        return {
            "tasks": self.tasks,
            "sample_final": mix.sample_K.tolist(),
            "sample_mean": (self.sample_sum_K / steps).tolist(),
            "loss_final": _loss_factor(mix).tolist(),
            "loss_mean": (self.loss_sum_K / steps).tolist(),
            "rows_seen": np.asarray(sampler.cursor_K).tolist(),
            "epochs_seen": np.round(sampler.epochs_K, 4).tolist(),
            "steps": updates,
            "reads": sorted(self.mixer.needs),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"sample_sum_K": self.sample_sum_K.clone(), "loss_sum_K": self.loss_sum_K.clone()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes its own entries of a larger state."""
        self.sample_sum_K = state_dict["sample_sum_K"].clone()
        self.loss_sum_K = state_dict["loss_sum_K"].clone()


def _loss_factor(mix: Mix) -> Tensor:
    """Factor on each task's loss, (K,)."""
    return torch.ones_like(mix.sample_K) if mix.loss_K is None else mix.loss_K


def _plain(value_K: Tensor | None) -> list[float | None] | None:
    """JSON numbers, null where nothing was measured, or nothing finite."""
    if value_K is None:
        return None
    return [round(x, 8) if isfinite(x) else None for x in value_K.tolist()]
