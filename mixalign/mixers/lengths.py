"""Lengths of a run in a rule's settings: whole steps, or shares of a run whose length the pipeline knows."""

from typing import Any

from mixalign.errors import MixalignError

__all__ = ["for_run", "in_steps", "known"]


def for_run(mixer: Any, tasks: list[str], steps: int) -> Any:
    """The rule told the names of the tasks and the steps of its run, where it has a `for_run` that asks for them."""
    return mixer.for_run(tasks, steps) if hasattr(mixer, "for_run") else mixer


def in_steps(length: float, steps: int) -> int:
    """A length in steps of a run of `steps`: from 1 on it is a number of steps already, below 1 a share of the run."""
    return round(length * steps) if length < 1 else int(length)


def known(key: str, length: float) -> int:
    """A length that is a number of steps.

    Raises:
        MixalignError: for a share of a run, which only `for_run` can turn into steps.
    """
    if length != int(length):
        raise MixalignError(f"`mixer.{key}` is {length}, a share of the run: call `for_run(tasks, steps)` first.")
    return int(length)
