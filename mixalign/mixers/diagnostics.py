"""Signs in the path of the weights that the minimax game is not settling."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

__all__ = ["Moment", "alternating", "diverging"]


class Moment(NamedTuple):
    """One update of the path: the mixture, and the excess (or loss) it was computed from; nan where absent."""

    alpha_K: Tensor
    excess_K: Tensor


def alternating(path: Sequence[Moment], tasks: Sequence[str], share: float = 0.5) -> str | None:
    """A warning when the heaviest task changes at a quarter of the updates and weighs over `share` each time.

    Two tasks that conflict then take turns, and the last iterate is worse than the average of the path.
    """
    heads = [int(m.alpha_K.argmax()) for m in path if float(m.alpha_K.max()) > share]
    swaps = sum(a != b for a, b in pairwise(heads))
    if len(heads) < len(path) / 2 or swaps < len(path) / 4:
        return None
    names = ", ".join(sorted({tasks[h] for h in heads}))
    return (
        f"The heaviest task alternated {swaps} times in {len(path)} updates ({names}). Lower mixer.eta or raise "
        "the floor (mixer.floor, or mixer.c for AMA-S)."
    )


def diverging(path: Sequence[Moment], tasks: Sequence[str], share: float = 0.6) -> str | None:
    """A warning when one task holds over `share` of the mixture and its excess still grows."""
    half = len(path) // 2
    task = int(path[-1].alpha_K.argmax())
    late = [float(m.excess_K[task]) for m in path[half:] if not m.excess_K[task].isnan()]
    early = [float(m.excess_K[task]) for m in path[:half] if not m.excess_K[task].isnan()]
    held = all(float(m.alpha_K[task]) > share for m in path[half:])
    if not (early and late and held) or sum(late) / len(late) < 1.25 * sum(early) / len(early):
        return None
    return (
        f"Task `{tasks[task]}` holds {float(path[-1].alpha_K[task]):.0%} of the mixture and its excess grows. It may "
        "be noise that cannot be learned, or a specialist trained too long: lower mixer.eta, raise the floor, or "
        "train specialists for fewer steps."
    )
