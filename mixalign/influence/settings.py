"""What is measured and how, and how batches are read for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from mixalign.checks import check_choice, check_number, check_pattern
from mixalign.data.batches.collate import Layout, collate
from mixalign.errors import MixalignError
from mixalign.influence.curvature import CURVATURES
from mixalign.types import Batch

__all__ = ["Influence", "Reading"]

Fisher = Literal["true", "empirical"]


@dataclass(frozen=True)
class Influence:
    """How the influence of a domain's volume on the target loss is measured (IDEAL, arXiv 2505.12762).

    Attributes:
        curvature: `ekfac` (arXiv 1806.03884, 2308.03296), `kfac` (arXiv 1503.05671), or `identity`, the plain inner
            product of gradients.
        fisher: labels of the curvature: `true` are drawn from the model, `empirical` are those of the data (one
            backward pass less, but no curvature where the model is wrong).
        damping: added to the curvature of a layer, as a share of its mean (for an adapter, of that of both factors);
            raised while 15 % of a volume would move the target loss by more than itself.
        layers: regular expression for the names of the linear layers that are read; "." is all that are trained.
        important: share of these layers that counts, those of the most even curvature (the paper's choice); None: all.
        samples: rows that are read of each domain and of each target table; all of them where there are fewer.
            Measured on tiny models: 16 are noise, 64 mostly right, 256 reliable. `auto` is 256, or less where a run
            would otherwise measure for longer than it trains.
        sampling: share of a table's rows to read, where that is more than `samples` (the paper: 0.5 of the domains).
        bootstrap: resamples behind the confidence in each sign, from a quarter of the rows, at least 32 of a table.
        seed: of rows, drawn labels and resamples.
    """

    curvature: str = "ekfac"
    fisher: Fisher | bool = "true"  # YAML and the command line read the word as True
    damping: float = 0.1
    layers: str = "."
    important: float | None = None
    samples: int | str = 256
    sampling: float | None = None
    bootstrap: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("influence.curvature", self.curvature, CURVATURES)
        check_choice("influence.fisher", self.fisher, (*get_args(Fisher), True))
        check_number("influence.damping", self.damping, 0, open_low=True, why="0.1 is usual.")
        check_pattern("influence.layers", self.layers, null=False)
        for name in ("important", "sampling"):
            check_number(f"influence.{name}", getattr(self, name), 0, 1, open_low=True, null=True)
        for name in ("samples", "bootstrap"):
            if (name, getattr(self, name)) != ("samples", "auto"):
                check_number(f"influence.{name}", getattr(self, name), 1, whole=True)
        if self.important is not None and not self.is_curved:
            raise MixalignError(
                f"`influence.important` ranks layers by their curvature, and `influence.curvature={self.curvature}` "
                "measures none. Choose kfac or ekfac, or leave `important` out."
            )

    @property
    def is_curved(self) -> bool:
        """Whether a curvature is measured."""
        return CURVATURES[self.curvature].block is not None

    @property
    def most_rows(self) -> int:
        """`samples`, with a number for `auto`."""
        return 256 if isinstance(self.samples, str) else self.samples

    @property
    def passes(self) -> int:
        """Forward and backward passes over a row of a domain: for its gradient, and for curvature."""
        return 1 + (self.is_curved and self.draws_labels) + CURVATURES[self.curvature].spectrum

    @property
    def draws_labels(self) -> bool:
        """Whether the labels of the curvature are drawn from the model; there may be no curvature."""
        return self.fisher != "empirical"


@dataclass(frozen=True)
class Reading:
    """How rows reach the model: nothing here changes what is measured, but for rounding and the words that are drawn.

    Attributes:
        batch_size: rows of one forward and backward pass, all of one table.
        layout: makes a batch of rows.
        precision: Lightning's, as in training.
        live_reference: computes `reference_logp_BS` where the tables carry no cached scores.
        rank: this process; it takes every `world`-th batch.
        world: number of processes.
        reduce: sums a tensor over processes and returns it, on every process in the same order.
        on_batch: called with the rows done and the rows to do on this process, after every forward and backward pass;
            a row counts once for each of its passes.
        on_share: called with it, with the share of this process's tokens that are done, each pass counted.
    """

    batch_size: int = 16
    layout: Layout = collate
    precision: str = "32-true"
    live_reference: Callable[[Batch], Tensor] | None = None
    rank: int = 0
    world: int = 1
    reduce: Callable[[Tensor], Tensor] = lambda total: total
    on_batch: Callable[[int, int], None] = lambda done, total: None
    on_share: Callable[[float], None] = lambda share: None
