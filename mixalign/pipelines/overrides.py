"""Overrides as users write them."""

from collections.abc import Sequence

__all__ = ["with_new_tasks"]


def with_new_tasks(overrides: Sequence[str]) -> list[str]:
    """Lets `data.tasks.<name>...` add a task: data.tasks is a mapping that everyone extends, so no `+` is needed."""
    return [f"++{text}" if text.startswith(("data.tasks.", "data.reference.")) else text for text in overrides]
