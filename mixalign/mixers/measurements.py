"""Where the fields of a MixSignal come from, and how a rule reads them."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mixalign.errors import MixalignError

if TYPE_CHECKING:
    from mixalign.mixers.base import MixSignal

__all__ = ["PROBED", "PROVIDERS", "read"]

_ALWAYS = "the Mixing callback measures it in every run"
_ROUNDS = "it is measured between rounds of training: for rules of `cadence` round, by `mixalign train`"
_SPECIALISTS = "it needs specialist losses: set `specialists.train=auto`, or point `specialists.dir` at trained ones"
_PROBES = "a probe of mixalign.training.callbacks measures it: run the mixer with `mixalign train`"
PROVIDERS = {
    "loss_K": _ALWAYS,
    "loss_iw_K": _ALWAYS,
    "excess_K": _SPECIALISTS,
    "excess_iw_K": _SPECIALISTS,
    "eval_loss_K": _ALWAYS,
    "eval_excess_K": _SPECIALISTS,
    "benefit_K": _ROUNDS,
    "confidence_K": _ROUNDS,
    "probe_loss_K": _PROBES,
    "gain_K": _PROBES,
    "gradient_KK": _PROBES,
    "noise_K": _PROBES,
}
PROBED = frozenset(name for name, source in PROVIDERS.items() if source == _PROBES)


def read(signal: "MixSignal", name: str, state_K: Tensor) -> Tensor:
    """The measurement `name` as float64 (K,) or (K, K), checked against the number of tasks of the state.

    What is not finite is nan: not measured. So no infinity, such as the gain of a task whose loss is exactly 0, reaches
    a rule, whose state would keep it for good.

    Raises:
        MixalignError: when nothing measured it, or its shape is not (K,), or (K, K) for a name in `_KK`.
    """
    value_K: Tensor | None = getattr(signal, name)
    if value_K is None:
        raise MixalignError(f"This mixer needs `{name}`, and nothing measured it: {PROVIDERS[name]}.")
    if value_K.shape != state_K.shape * name.count("K"):
        raise MixalignError(f"`{name}` has shape {tuple(value_K.shape)}, but the mixture has {len(state_K)} tasks.")
    value_K = value_K.to(torch.float64)
    return value_K.where(value_K.isfinite(), torch.nan)
