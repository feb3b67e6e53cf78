"""Lengths of a run in a rule's settings: whole steps, or shares of a run whose length the pipeline knows."""

from mixalign.errors import MixalignError

__all__ = ["in_steps", "known"]


def in_steps(length: float, steps: int) -> int:
    """A length in steps of a run of `steps`: from 1 on it is a number of steps already, below 1 a share of the run."""
    return round(length * steps) if length < 1 else int(length)


def known(key: str, length: float) -> int:
    """A length that is a number of steps.

    Raises:
        MixalignError: for a share of a run, which only `for_run` can turn into steps.
    """
    if length != int(length):
        raise MixalignError(f"`{key}` is {length}, a share of the run: call `for_run(tasks, steps)` first.")
    return int(length)
