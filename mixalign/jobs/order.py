"""The order of a job's tasks, in which every K-vector has them: a run keeps the one that it began with."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from mixalign.errors import MixalignError

__all__ = ["as_begun", "plain_tasks"]

T = TypeVar("T")


def as_begun(by_task: Mapping[str, T], begun: Sequence[str], plain: Mapping[str, Any]) -> dict[str, T]:
    """What there is of each task, in the order in which a run began with them; as it is where the tasks are others.

    Args:
        begun: the tasks of the run; none for a new one.
        plain: the whole configuration.

    Raises:
        MixalignError: when the order changes, and a setting is a list with a number for each task.
    """
    if sorted(by_task) != sorted(begun) or [*by_task] == [*begun]:
        return dict(by_task)
    for key in _lists_by_task(plain, len(begun)):
        raise MixalignError(
            f"The tasks have another order than when the run began: {', '.join(by_task)}; then they were "
            f"{', '.join(begun)}. `{key}` is a list in the order of the tasks and would mean something else. Put the "
            "tasks in the order of then; weights by task name (`{math: 2, safe: 1}`) fit any order."
        )
    return {task: by_task[task] for task in begun}


def plain_tasks(entries: Mapping[str, Any] | None, tasks: Sequence[str]) -> dict[str, Any] | None:
    """`data.tasks` of a configuration in the order of the tasks, with what removes a task behind them."""
    if entries is None:
        return None
    return {task: entries[task] for task in tasks if task in entries} | dict(entries)


def _lists_by_task(plain: Mapping[str, Any], num_tasks: int) -> Iterator[str]:
    """Keys of lists with a number, or a row of numbers, for each task."""
    yield from _lists("mixer", plain["mixer"], num_tasks)
    yield from _lists("merge.weights", (plain.get("merge") or {}).get("weights"), num_tasks)


def _lists(key: str, value: Any, num_tasks: int) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from _lists(f"{key}.{name}", below, num_tasks)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) == num_tasks and not any(isinstance(entry, str | Mapping) for entry in value):
            yield key
        for number, below in enumerate(value):
            if isinstance(below, Mapping):
                yield from _lists(f"{key}.{number}", below, num_tasks)
