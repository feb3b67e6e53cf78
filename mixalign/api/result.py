"""The result of a run, as Python gets it."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mixalign.errors import MixalignError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Result", "Worst"]


class Worst(NamedTuple):
    """The task that is worst off, and by what: its excess, where specialists are known, else its loss; nats."""

    task: str
    value: float
    quantity: str


class Result(dict[str, Any]):
    """What `eval.json` holds, as a dict, and what lies beside it in the run's folder.

    Attributes:
        run_dir: the run's folder.
    """

    def __init__(self, values: Mapping[str, Any], run_dir: Path) -> None:
        super().__init__(values)
        self.run_dir = run_dir

    @property
    def worst(self) -> Worst:
        """The task with the largest excess, or loss where there are no specialists."""
        quantity = "excess" if "excess" in self["worst"] else "loss"
        found = self["worst"][quantity]
        return Worst(found["task"], found["value"], quantity)

    @cached_property
    def mixture(self) -> dict[str, Any]:
        """What `mixture.json` holds: final and mean weights, rows and epochs seen, in the order of its `tasks`.

        Raises:
            MixalignError: when the folder has none, as of a trial that was thrown away.
        """
        path = self._kept("mixture.json")
        mixture: dict[str, Any] = json.loads(path.read_text())
        return mixture

    def model(self) -> tuple[Any, Any]:
        """The exported model, an adapter merged into its base, and its tokenizer; both of transformers.

        Raises:
            MixalignError: when the folder has none, as of a trial that was thrown away.
        """
        from mixalign.models.load import Pretrained
        from mixalign.runs.portable import where_it_began

        folder = self._kept("model").resolve()
        with where_it_began(self.run_dir):
            source = Pretrained(str(folder))
            return source.build(), source.tokenizer()

    def plot(self, path: Path | str | None = None) -> "Figure":
        """The mixture over the steps, as the report draws it.

        Args:
            path: a file that gets the picture; its ending says of which kind (.png, .svg, .pdf).

        Raises:
            MixalignError: when the folder has no history of a mixture.
        """
        from mixalign.reporting.read.runs import load_run
        from mixalign.reporting.show.plots.mixture import mixture_paths

        self._kept("mix.jsonl")
        figure = mixture_paths([load_run(self.run_dir)])
        if path is not None:
            figure.savefig(path)
        return figure

    def _kept(self, name: str) -> Path:
        path = self.run_dir / name
        if not path.exists():
            raise MixalignError(
                f"{path} is not there. It is a run's own, and a trial (`fast_dev_run`) keeps nothing; give a `run_dir` "
                "that still holds the run."
            )
        return path
