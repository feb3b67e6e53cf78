"""What is measured and how, and how batches are read for it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from mixalign.data.collate import Layout, collate
from mixalign.errors import MixalignError, did_you_mean
from mixalign.types import Batch

__all__ = ["Curvature", "Influence", "Reading", "check_name"]

Curvature = Literal["identity", "kfac", "ekfac"]
Fisher = Literal["true", "empirical"]


@dataclass(frozen=True)
class Influence:
    """How the influence of a domain's volume on the reference loss is measured (IDEAL, arXiv 2505.12762).

    Attributes:
        curvature: `ekfac` (arXiv 1806.03884, 2308.03296), `kfac` (arXiv 1503.05671), or `identity`, the plain inner
            product of gradients.
        fisher: labels of the curvature: `true` are drawn from the model, `empirical` are those of the data (one
            backward pass less, but no curvature where the model is wrong).
        damping: added to the curvature of a layer, as a share of its mean.
        layers: regular expression for the names of the linear layers that are read; "." is all that are trained.
        important: share of these layers that counts, those of the most even curvature (the paper's choice); None: all.
        samples: rows that are read of each domain and of each reference table; all of them where there are fewer.
            Measured on tiny models: 16 are noise, 64 mostly right, 256 reliable.
        sampling: share of a table's rows to read, where that is more than `samples` (the paper: 0.5 of the domains).
        bootstrap: resamples behind the confidence in each sign.
        seed: of rows, drawn labels and resamples.
    """

    curvature: Curvature = "ekfac"
    fisher: Fisher = "true"
    damping: float = 0.1
    layers: str = "."
    important: float | None = None
    samples: int = 256
    sampling: float | None = None
    bootstrap: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.fisher is True:  # so YAML and the command line read the word
            object.__setattr__(self, "fisher", "true")
        check_name("curvature", self.curvature, get_args(Curvature))
        check_name("fisher", self.fisher, get_args(Fisher))
        if not self.damping > 0:
            raise MixalignError(f"`influence.damping` is {self.damping}, but must be above 0 (0.1 is usual).")
        try:
            re.compile(self.layers)
        except re.error as error:
            raise MixalignError(f"`influence.layers={self.layers}` is no regular expression: {error}.") from error
        for name in ("important", "sampling"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise MixalignError(f"`influence.{name}` is {share}, but must be in (0, 1] or null.")
        for name in ("samples", "bootstrap"):
            number = getattr(self, name)
            if not isinstance(number, int) or number < 1:
                raise MixalignError(f"`influence.{name}` is {number}, but must be a whole number above 0.")
        if self.important is not None and self.curvature == "identity":
            raise MixalignError(
                "`influence.important` ranks layers by their curvature, and `influence.curvature=identity` measures "
                "none. Choose kfac or ekfac, or leave `important` out."
            )


def check_name(setting: str, value: str, known: Sequence[str]) -> None:
    """Refuses a setting's value that has no meaning.

    Raises:
        MixalignError: naming the setting and what is known.
    """
    if value not in known:
        raise MixalignError(f"`influence.{setting}` is `{value}`. {did_you_mean(str(value), known)}")


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
    """

    batch_size: int = 16
    layout: Layout = collate
    precision: str = "32-true"
    live_reference: Callable[[Batch], Tensor] | None = None
    rank: int = 0
    world: int = 1
    reduce: Callable[[Tensor], Tensor] = lambda total: total
    on_batch: Callable[[int, int], None] = lambda done, total: None
