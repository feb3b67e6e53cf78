"""The passes over the chosen rows: mean gradients and factors, EK-FAC's spectrum, and row by row products.

M chosen rows of a table, D directions; P positions of a batch, I inputs and O outputs of a layer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mixalign.data.dataset import TaskDataset
from mixalign.influence.bootstrap import Known
from mixalign.influence.capture import Each, observe, once, spans
from mixalign.influence.curvature import CURVATURES
from mixalign.influence.factors import Moments, Spectrum, zeros
from mixalign.influence.gemm import add_product, matmul
from mixalign.influence.rows import Part, cut, few_of, few_read
from mixalign.influence.settings import Influence, Reading
from mixalign.influence.solve import Basis, Block, Gradient
from mixalign.losses.kto import kl_estimate
from mixalign.models.forward import backbone, score_completions
from mixalign.models.precision import autocast
from mixalign.objectives.base import Objective
from mixalign.types import Batch, on_device, sum_dtype

__all__ = ["Passes"]


class Means(NamedTuple):
    """What the first pass finds.

    Attributes:
        gradients: the mean one of every table.
        sizes: of each row's gradient, (M,) a table: squares of the layers' output gradients, summed.
        moments: the factors of the domains' curvature, None for the identity.
    """

    gradients: list[dict[str, Tensor]]
    sizes: list[np.ndarray]
    moments: Moments | None


@dataclass
class Passes:
    """Reads the batches of one rank, as often as it is asked to; what it returns is summed over ranks.

    The gradient of a row with a weight is that of its loss times the weight over its table's mean one, and its
    curvature likewise: means over chosen rows are then those of the weighted means, in expectation.

    Attributes:
        model: in evaluation mode and frozen (`at_rest`).
        layers: those that are watched.
        tables: the domains, then the targets.
        rows: that are chosen of each table.
        task_T: each table's task, as the objective numbers them.
        weight_K: of one row of each domain in the curvature; all rows' weights sum to 1.
    """

    model: nn.Module
    layers: dict[str, nn.Linear]
    objective: Objective
    tables: Sequence[TaskDataset]
    rows: Sequence[np.ndarray]
    task_T: Sequence[int]
    weight_K: Sequence[float]
    influence: Influence
    reading: Reading

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.rows_T = np.array([len(row_M) for row_M in self.rows])
        self.parts = self._of_rank(self.rows)
        few_parts = self._of_rank([row_M[_spread(len(row_M))] for row_M in self.rows])  # as many as will be read
        self.curvature = CURVATURES[self.influence.curvature]
        self.drawn = self.influence.is_curved and self.influence.draws_labels
        # curvature is a second moment, which wants another scale than the gradient of the same loss
        self.apart = self.drawn or (self.influence.is_curved and any("weight" in t.columns for t in self.tables))
        self.kl_T: Tensor | None = None  # of each table's chosen rows, where the loss is measured from that
        self.done = 0
        runs = [*((part, self._runs(part)) for part in self.parts), *((part, 1) for part in few_parts)]
        self.total = sum(len(part.row_B) * times for part, times in runs)
        self.tokens = sum(self._tokens(part) * times for part, times in runs)
        self.tokens_done = 0

    def means(self) -> Means:
        """Reads all rows once, and the domains' a second time for labels that are drawn, or rows that have weights."""
        sums = [{n: zeros(x, x.out_features, x.in_features) for n, x in self.layers.items()} for _ in self.tables]
        sizes = [torch.zeros(int(rows), dtype=sum_dtype(self.device), device=self.device) for rows in self.rows_T]
        self._measure_kl()
        moments = Moments(self.layers) if self.influence.is_curved else None
        for part in self.parts:
            batch = self._batch(part)
            size_B = sizes[part.table][part.start : part.start + len(part.row_B)]
            watched = [_into_sum(sums[part.table]), _into_sizes(size_B, _sample_of(batch))]
            readings = [(self._loss(batch), watched)]
            if moments is not None and self._is_domain(part):
                factors = moments.at(self.weight_K[part.table])
                if self.apart:
                    readings.append((self._curved_loss(batch, part, 0), [factors]))
                else:
                    watched.append(factors)
            self._run(part, batch, readings)
        reduce = self.reading.reduce
        means = [
            {n: reduce(g) / int(rows) for n, g in one.items()} for one, rows in zip(sums, self.rows_T, strict=True)
        ]
        return Means(means, [reduce(size_M).cpu().numpy() for size_M in sizes], moments)

    def blocks(self, moments: Moments) -> dict[str, Block]:
        """The curvature of each layer; one with a spectrum reads the domains' rows once more."""
        bases = moments.bases(self.reading.reduce)
        assert self.curvature.block is not None
        if not self.curvature.spectrum:
            return {name: self.curvature.block(basis) for name, basis in bases.items()}
        along = self._spectrum(bases).moments(self.reading.reduce)
        return {name: self.curvature.block(basis, along[name]) for name, basis in bases.items()}

    def _spectrum(self, bases: dict[str, Basis]) -> Spectrum:
        # labels are drawn anew: the first draws look too large along their own first eigenvectors
        spectrum = Spectrum(bases)
        for part in filter(self._is_domain, self.parts):
            batch = self._batch(part)
            watched = [spectrum.at(spans(batch), self.weight_K[part.table])]
            self._run(part, batch, [(self._curved_loss(batch, part, 1), watched)])
        return spectrum

    def products(self, directions: Sequence[Sequence[Gradient]], sizes: Sequence[np.ndarray]) -> list[Known]:
        """Inner products of the gradients of a few rows of a table with the table's directions, (F, D) a table."""
        few = [few_of(size_M, [self.influence.seed, number]) for number, size_M in enumerate(sizes)]
        dtype = sum_dtype(self.device)
        out = [
            torch.zeros(len(place_F), len(table), dtype=dtype, device=self.device)
            for (place_F, _), table in zip(few, directions, strict=True)
        ]
        parts = self._of_rank([row_M[place_F] for row_M, (place_F, _) in zip(self.rows, few, strict=True)])
        self.tokens = self.tokens_done + sum(map(self._tokens, parts))
        for part in parts:
            batch = self._batch(part)
            out_BD = out[part.table][part.start : part.start + len(part.row_B)]
            watched = [_into_products(out_BD, directions[part.table], _sample_of(batch))]
            self._run(part, batch, [(self._loss(batch), watched)])
        found = [self.reading.reduce(out_FD).cpu().numpy() for out_FD in out]
        return [Known(x, few[t][1], int(self.rows_T[t])) for t, x in enumerate(found)]

    def _of_rank(self, rows: Sequence[np.ndarray]) -> list[Part]:
        return cut(rows, self.reading.batch_size)[self.reading.rank :: self.reading.world]

    def _is_domain(self, part: Part) -> bool:
        return part.table < len(self.weight_K)

    def _runs(self, part: Part) -> int:
        """Forward and backward passes over a batch of all rows."""
        return 1 + (self.apart + self.curvature.spectrum if self._is_domain(part) else 0)

    def _tokens(self, part: Part) -> int:
        return int(self.tables[part.table].length_N[part.row_B].sum())

    def _batch(self, part: Part) -> Batch:
        batch = self.reading.layout(self.tables, np.full(len(part.row_B), part.table), part.row_B)
        batch["task_B"] = torch.full_like(batch["task_B"], self.task_T[part.table])
        batch = on_device(batch, self.device)
        if self.reading.live_reference is not None and "reference_logp_BS" not in batch:
            batch["reference_logp_BS"] = self.reading.live_reference(batch)
        if self.kl_T is not None:
            batch["kl_K"] = self.kl_T[part.table].expand(max(self.task_T) + 1)
        return batch

    @torch.no_grad()
    def _measure_kl(self) -> None:
        """KTO's KL over the chosen rows of each table; a pass over them."""
        if self.objective.form != "mismatched":
            return
        objective: Any = self.objective
        sums_2T = torch.zeros(2, len(self.tables), dtype=sum_dtype(self.device), device=self.device)
        for part in self.parts:
            batch = self._batch(part)
            with autocast(self.device, self.reading.precision):
                logp_BS = score_completions(self.model, batch).logp_BS
            numbered = batch | Batch(task_B=torch.full_like(batch["task_B"], part.table))
            sums_2T += objective.kl_sums(logp_BS, numbered, len(self.tables))
        self.kl_T = kl_estimate(self.reading.reduce(sums_2T))

    def _loss(self, batch: Batch, power: float = 1.0) -> Callable[[], Tensor]:
        return lambda: _weighted(self.objective(self.model, batch)["loss"], batch, power)

    def _curved_loss(self, batch: Batch, part: Part, turn: int) -> Callable[[], Tensor]:
        """The loss whose gradients' second moment is the curvature: the root of a weight becomes the weight."""
        if not self.drawn:
            return self._loss(batch, 0.5)
        state = np.random.SeedSequence([self.influence.seed, turn, part.number]).generate_state(1, np.uint64)
        generator = torch.Generator(self.device).manual_seed(int(state[0]) >> 1)
        return lambda: _weighted(self.objective.fisher_loss(self.model, batch, generator), batch, 0.5)

    def _run(self, part: Part, batch: Batch, readings: Sequence[tuple[Callable[[], Tensor], Sequence[Each]]]) -> None:
        """One forward pass of a batch, and a backward pass for each loss, which all its watchers see."""
        prompt_B = self.tables[part.table].length_NS[part.row_B, 0]
        merged = [(loss, once(_all_of(watched), batch, prompt_B)) for loss, watched in readings]
        shared = backbone(self.model) if len(readings) > 1 else None
        observe(self.layers, batch, merged, self.reading.precision, shared)
        self.done += len(batch["task_B"]) * len(readings)
        self.tokens_done += self._tokens(part) * len(readings)
        self.reading.on_batch(self.done, self.total)
        self.reading.on_share(self.tokens_done / self.tokens)


def _spread(rows: int) -> np.ndarray:
    """Places at equal distances, as many as are read for the noise."""
    return np.linspace(0, rows - 1, few_read(rows)).astype(int)


def _all_of(watched: Sequence[Each]) -> Each:
    def each(name: str, x_PI: Tensor, delta_PO: Tensor) -> None:
        for one in watched:
            one(name, x_PI, delta_PO)

    return each


def _weighted(loss_B: Tensor, batch: Batch, power: float) -> Tensor:
    return loss_B * batch["weight_B"] ** power if "weight_B" in batch else loss_B


def _into_sum(sums: dict[str, Tensor]) -> Each:
    def each(name: str, x_PI: Tensor, delta_PO: Tensor) -> None:
        add_product(sums[name], delta_PO, x_PI)

    return each


def _into_sizes(size_B: Tensor, sample_P: Tensor) -> Each:
    """Adds the squares of each sample's output gradients."""

    def each(name: str, x_PI: Tensor, delta_PO: Tensor) -> None:
        _add_by_sample(size_B, sample_P, delta_PO.norm(dim=1).to(size_B) ** 2)

    return each


def _add_by_sample(sum_B: Tensor, sample_P: Tensor, value_P: Tensor) -> None:
    """Adds what positions have to their samples; those of no sample are left out."""
    more_B = sum_B.new_zeros(len(sum_B) + 1, *sum_B.shape[1:])
    sum_B.add_(more_B.index_add_(0, sample_P, value_P.to(sum_B))[:-1])


def _into_products(out_BD: Tensor, directions: Sequence[Gradient], sample_P: Tensor) -> Each:
    """Adds `sum_t delta_t' V x_t` of each sample and direction V: no sample's gradient is ever formed."""

    def each(name: str, x_PI: Tensor, delta_PO: Tensor) -> None:
        value_PD = torch.stack([_product(delta_PO, v[name], x_PI) for v in directions], 1)
        _add_by_sample(out_BD, sample_P, value_PD)

    return each


def _product(a_PM: Tensor, v_MN: Tensor, b_PN: Tensor) -> Tensor:
    """`a' V b` at each position (P,), float32 at least; what is made for it has the smaller width."""
    if len(v_MN) < v_MN.shape[1]:
        a_PM, v_MN, b_PN = b_PN, v_MN.t(), a_PM
    dtype = torch.promote_types(a_PM.dtype, torch.float32)
    return matmul(a_PM, v_MN).mul_(b_PN).sum(1, dtype=dtype)


def _sample_of(batch: Batch) -> Tensor:
    """The sample that each position is of (P,); one more than there are, for what is none's."""
    samples = spans(batch)
    sample_P = torch.full((batch["input_ids"].numel(),), len(samples))
    for number, span in enumerate(samples):
        sample_P[span] = number
    return sample_P.to(batch["input_ids"].device)
