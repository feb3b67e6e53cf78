"""Whether further rows have the form of the run's rows: written by the chat template, or plain text."""

from collections.abc import Sequence
from contextlib import suppress

from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.further.model import Opened
from mixalign.runs.origin import begins_answer
from mixalign.runs.rendering import Rendering

__all__ = ["other_form"]


def other_form(rows: TaskDataset, like: str, opened: Opened, day: str | None) -> str:
    """Says that rows are read in a form in which the run did not read its own, and how to change it; else empty.

    Args:
        like: the task as whose rows they are read, of the run or not.
        day: what the chat template takes for today.
    """
    if opened.tokenizer.chat_template is None or not len(rows):
        return ""
    with suppress(MixalignError):  # a template that wants more than a user's turn: nothing is known
        if begins_answer(opened.tokenizer, day, rows):
            return _of_turns(rows.task, like, opened.rendering)
        return _of_text(rows.task, like, opened.rendering)
    return ""


def _of_turns(task: str, like: str, rendering: Rendering | None) -> str:
    chat = (rendering.chat if rendering else None) or {}
    theirs = [like] if like in chat else [*chat]
    if not theirs or any(chat[name] for name in theirs):
        return ""
    return (
        f"The rows of `{task}` are written by the chat template, by which the run wrote no row of {_names(theirs)}. "
        "Give them as plain text: prompt and completion, or chosen and rejected."
    )


def _of_text(task: str, like: str, rendering: Rendering | None) -> str:
    begun = f"The rows of `{task}` are read as plain text, without the chat template"
    if rendering is None or not rendering.chat:
        return (
            f"{begun}, as nothing here says how the model was trained. Where it learned conversations, give such "
            "(`messages`), or name its run, or a folder that was exported from it."
        )
    chat = rendering.chat
    theirs = [like] if like in chat else [*chat]
    if not (written := [name for name in theirs if chat[name]]):
        return ""
    if like in chat:
        return f"{begun}, by which the run wrote those of `{like}`. Give conversations (`messages`)."
    ways = [f"--task {name}" for name in rendering.choices()]
    cure = f"Read them as a task of the run, {' or '.join(ways)}, or give" if ways else "Give"
    return (
        f"{begun}, by which the run wrote those of {_names(written)}: it has no task `{like}`. {cure} conversations "
        "(`messages`)."
    )


def _names(tasks: Sequence[str]) -> str:
    return ", ".join(f"`{task}`" for task in tasks)
