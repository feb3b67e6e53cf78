"""Fixed weights in a rule's settings: a word, a list in the order of the tasks, or one by task name."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mixalign.checks import check_choice
from mixalign.errors import MixalignError, did_you_mean
from mixalign.mixers.simplex import normalise, uniform

__all__ = ["check_weights", "in_order", "resolve"]

WORDS = {"uniform": lambda rows_K: uniform(len(rows_K)), "proportional": normalise}


def check_weights(key: str, weights: Any) -> None:
    """Refuses what cannot be weights of tasks, whatever the tasks are.

    Raises:
        MixalignError: naming the key.
    """
    if isinstance(weights, str):
        return check_choice(key, weights, WORDS)
    values = list(weights.values() if isinstance(weights, Mapping) else weights) if _is_many(weights) else []
    good = [isinstance(v, int | float) and 0 <= v < float("inf") for v in values]
    if not values or not all(good) or sum(values) <= 0:
        wanted = "`uniform`, `proportional`, or weights of 0 and more as a list or by task name"
        raise MixalignError(f"`{key}` is {weights!r}, but must be {wanted}.")


def in_order(key: str, weights: Any, tasks: Sequence[str]) -> Any:
    """Weights by task name as a list in the order of the tasks; others as they are. A task without a weight has 0.

    Raises:
        MixalignError: for a name that is no task.
    """
    if not isinstance(weights, Mapping):
        return weights
    for name in weights:
        if name not in tasks:
            raise MixalignError(f"`{key}` names `{name}`, which is no task. {did_you_mean(str(name), tasks)}")
    return [weights.get(task, 0) for task in tasks]


def resolve(key: str, weights: Any, rows_K: Tensor) -> Tensor:
    """Weights as shares of K tasks, (K,), summing to 1.

    Raises:
        MixalignError: for a list of another length, or names, which only `for_run` can put in order.
    """
    if isinstance(weights, str):
        return WORDS[weights](rows_K)
    if isinstance(weights, Mapping):
        raise MixalignError(f"`{key}` has task names: call `for_run(tasks, steps)` first.")
    if len(weights) != len(rows_K):
        raise MixalignError(f"`{key}` has {len(weights)} weights, but there are {len(rows_K)} tasks.")
    return normalise(torch.tensor(weights, dtype=torch.float64))


def _is_many(weights: Any) -> bool:
    return isinstance(weights, Mapping | Sequence)
