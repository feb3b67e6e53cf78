"""trackio, a tracker whose dashboard runs on one's own machine, as a logger of Lightning."""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

__all__ = ["TrackioLogger"]


class TrackioLogger(Logger):
    """Writes to trackio's store (`TRACKIO_DIR`), or to a Space with `space_id`; `trackio show` draws it.

    Args:
        project: that the run belongs to.
        name: of the run.
        id: is put behind the name: trackio goes on with a run of the same name.
        save_dir: the run's folder.
        options: further arguments of `trackio.init`, as `group` or `space_id`.
    """

    def __init__(
        self, project: str = "mixalign", name: str = "run", id: str | None = None, save_dir: str = ".", **options: Any
    ) -> None:
        super().__init__()
        self._project, self._name = project, f"{name}-{id}" if id else name
        self._save_dir, self._options = save_dir, {"resume": "allow", "embed": False} | options
        self._run: Any = None
        self._config: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return self._project

    @property
    def version(self) -> str:
        return self._name

    @property
    def save_dir(self) -> str:
        return self._save_dir

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of trackio, which is begun when it is asked for first."""
        if self._run is None:
            import trackio

            with redirect_stdout(io.StringIO()):  # how to look at it; stdout is for results
                self._run = trackio.init(self._project, name=self._name, config=self._config, **self._options)
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Keeps them for the beginning of the run: trackio takes a configuration at no other time."""
        self._config |= dict(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        plain = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        self.experiment.log(plain, step=step)

    @rank_zero_only
    def log_image(self, key: str, images: Sequence[Any], step: int | None = None) -> None:
        """Images as arrays, uint8 of shape (height, width, 3)."""
        import trackio

        many = len(images) > 1
        self.log_metrics({f"{key}/{n}" if many else key: trackio.Image(x) for n, x in enumerate(images)}, step)

    @rank_zero_only
    def log_table(self, key: str, columns: Sequence[str], data: Sequence[Sequence[Any]]) -> None:
        """A table of plain values."""
        import trackio

        self.log_metrics({key: trackio.Table(columns=list(columns), data=[list(row) for row in data])})

    @rank_zero_only
    def finish(self) -> None:
        """Ends the run, whose lines are then all in the store."""
        if self._run is not None:
            import trackio

            with redirect_stdout(io.StringIO()):
                trackio.finish()
            self._run = None
