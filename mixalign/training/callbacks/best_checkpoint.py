"""The checkpoint of the step that a run is judged best by."""

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mixalign.errors import MixalignError
from mixalign.files import copy_whole

__all__ = ["MONITORS", "BestCheckpoint"]

MONITORS = {
    "best": "eval/worst_excess",
    "best_gap": "eval/worst_gap",
    "last": "eval/worst_excess",
    "averaged": "eval/worst_excess",
}  # by what `export` says
log = logging.getLogger(__name__)
LAST_INSTEAD = (
    "Restore it, or set `export=last`: the same command with it goes on from the last checkpoint and ends with the "
    "last step's weights."
)
PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")  # in Lightning's state, absolute


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint of the validation with the lowest monitor, known by its name in the run's folder.

    ModelCheckpoint (2.6.6) knows it by its absolute path: of a folder that was moved it forgets the best score, and
    reads or removes what lies at the old place.

    Args:
        folder: of the checkpoints.
        monitor: of the validations.
        wanted: whether the run ends with this checkpoint.
        resumed: the folder of the checkpoint that a training goes on from; the best one so far is copied from there.
        instead: a sentence that says what to do when it is missing.
    """

    def __init__(
        self,
        folder: Path,
        monitor: str,
        *,
        wanted: bool = True,
        resumed: Path | None = None,
        instead: str = LAST_INSTEAD,
    ) -> None:
        super().__init__(
            folder,
            "step{step}",
            monitor=monitor,
            save_on_train_epoch_end=False,  # but after each validation; by default once, at the end
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self.folder, self.wanted, self.resumed, self.instead = folder, wanted, resumed, instead

    @property
    def state_key(self) -> str:
        return type(self).__name__  # Lightning's has the monitor in it, and another one would lose the state silently

    @property
    def best(self) -> Path | None:
        """The checkpoint; None where nothing was validated."""
        return self.folder / Path(self.best_model_path).name if self.best_model_path else None

    def existing(self) -> Path:
        """The checkpoint of a training with validations.

        Raises:
            MixalignError: when it is gone.
        """
        assert self.best is not None
        if not self.best.exists():
            raise self._gone(self.best)
        return self.best

    def exported(self) -> dict[str, Any]:
        """Step, monitor and value of the best checkpoint, as `eval.json` has them.

        Raises:
            MixalignError: when it is gone.
        """
        best, value = self.existing(), self.best_model_score
        return {
            "step": int(best.stem.removeprefix("step")),
            "monitor": self.monitor,
            "value": None if value is None else float(value),
        }

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict() | {"dirpath": None}
        state |= {key: Path(state[key]).name if state[key] else "" for key in PATHS}
        return state | {"best_k_models": {Path(path).name: score for path, score in self.best_k_models.items()}}

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.state.fn == "fit":  # Lightning (2.6.6) has the newest score only where it is the best
            self.current_score = trainer.callback_metrics.get(self.monitor)
        super().on_validation_end(trainer, pl_module)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        states = checkpoint["callbacks"]
        if self.state_key not in states:  # of an older version
            older = [state for key, state in states.items() if key.startswith("ModelCheckpoint") and "worst_" in key]
            states[self.state_key] = older[0] if older else {}
        state = states[self.state_key]
        if not state or not state["best_model_path"]:
            return
        if state["monitor"] != self.monitor:
            log.warning(
                "The best checkpoint so far was chosen by `%s`; by `%s` the choice begins anew.",
                state["monitor"], self.monitor,
            )  # fmt: skip
            states.pop(self.state_key)
            return
        best = self.folder / Path(state["best_model_path"]).name
        if trainer.is_global_zero and self.resumed is not None:
            copy_whole(self.resumed / best.name, best)
        trainer.strategy.barrier()
        if self.wanted and not best.exists():
            raise self._gone(best)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict) | {"dirpath": self.dirpath}
        state |= {key: self._here(state[key]) for key in PATHS}
        scores: dict[str, torch.Tensor] = state["best_k_models"]
        super().load_state_dict(state | {"best_k_models": {self._here(path): score for path, score in scores.items()}})
        self.current_score = state.get("current_score")  # which Lightning (2.6.6) leaves out

    def _here(self, path: str) -> str:
        return str(Path(str(self.dirpath)) / Path(path).name) if path else ""

    def _gone(self, best: Path) -> MixalignError:
        return MixalignError(f"The best checkpoint so far, {best} by `{self.monitor}`, is missing. {self.instead}")
