"""What a training costs, over all processes that worked on it one after the other."""

from typing import Any

import lightning as L

from mixalign.training.meter import Meter

__all__ = ["Cost", "Spent"]


class Cost(L.Callback):
    """Measures from the first step to the last, validations and probes included, in this process.

    Checkpoints carry it, so that a training that was interrupted counts what it had spent until the checkpoint.
    """

    def __init__(self) -> None:
        self.meter = Meter()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.meter.device = pl_module.device.type
        self.meter.__enter__()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.meter.__exit__()

    def state_dict(self) -> dict[str, Any]:
        return self.meter.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.meter.load_state_dict(state_dict)


class Spent(L.Callback):
    """Has checkpoints carry what a meter around the training says, and adds what an earlier process had spent.

    Args:
        meter: is running.
    """

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def state_dict(self) -> dict[str, Any]:
        return self.meter.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.meter.seconds += state_dict["seconds"]
        self.meter.cpu_seconds += state_dict["cpu_seconds"]
        memory = (self.meter.memory_mib, state_dict["memory_mib"])
        self.meter.memory_mib = max((value for value in memory if value is not None), default=None)
