"""The one error type that a user is meant to read."""

import difflib
from collections.abc import Iterable

__all__ = ["MixalignError", "Stopped", "did_you_mean"]

SHORT = 3  # letters of a word that may be the beginning of another
FEW = 4  # words that are named


class MixalignError(ValueError):
    """Something the user gave cannot be used.

    The message names the thing, what it got, what it wanted and what to do. The command line prints it
    without a traceback; every other exception is a defect of ours and keeps its traceback.
    """


class Stopped(SystemExit):
    """A command was told to stop: by a signal, when it exits with 128 + its number, or by `max_time`, with 0.

    Not an error: it ends a sweep as well, where Hydra goes on with the next run after one.

    Args:
        text: in which stage, what is kept, and how to go on.
        code: of the process.
    """

    def __init__(self, text: str, code: int) -> None:
        super().__init__(code)
        self.text = text

    def __reduce__(self) -> tuple[type["Stopped"], tuple[str, int]]:
        return Stopped, (self.text, int(self.code or 0))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that names the few known words that begin so, or the closest one, or all where none is close."""
    known = sorted(known)
    begun = [name for name in known if len(word) >= SHORT and name.startswith(word)]
    close = begun if 0 < len(begun) <= FEW else difflib.get_close_matches(word, known, n=1)
    if not close:
        return f"Known: {', '.join(known)}."
    *others, last = [f"`{name}`" for name in close]
    return f"Did you mean {', '.join(others)} or {last}?" if others else f"Did you mean {last}?"
