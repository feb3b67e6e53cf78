"""Scores of generated answers: is this answer as right as the row's own?"""

import math
import re
from collections.abc import Callable

from mixalign.data.english import ENGLISH
from mixalign.data.read.spec import TaskSpec
from mixalign.errors import MixalignError

__all__ = ["Scorer", "built_in", "exact", "same_match", "score_answer"]

MEND = "Mend it or name another scorer: the same command goes on, and nothing is trained again."
Scorer = Callable[[str, str, str], float]
"""From a prompt, the row's answer and a generated one to a number; 1 for a right answer, 0 for a wrong one."""


def exact(prompt: str, answer: str, given: str) -> float:
    """Whether both are the same text, apart from white space around it."""
    return float(given.strip() == answer.strip())


def same_match(pattern: str) -> Scorer:
    """Whether the last match of a regular expression is the same in both, or neither has one.

    Where the expression has groups, only they are compared: `#### (-?\\d+)` compares numbers.
    """
    compiled = re.compile(pattern)

    def score(prompt: str, answer: str, given: str) -> float:
        wanted, got = (
            [match.groups() or match[0] for match in compiled.finditer(text)][-1:] for text in (answer, given)
        )
        return float(wanted == got)

    return score


def built_in(spec: TaskSpec) -> Scorer | None:
    """The scorer of a task that needs no code of the user's; None where it names a function, or nothing."""
    if spec.scorer == "exact":
        return exact
    if isinstance(spec.scorer, str):
        return None
    if spec.scorer is not None:
        return same_match(spec.scorer["regex"])
    return ENGLISH[spec.generator].score if spec.generator in ENGLISH else None


def score_answer(task: str, scorer: Scorer, prompt: str, answer: str, given: str) -> float:
    """The score of one answer.

    Raises:
        MixalignError: when the scorer fails, or gives no finite number.
    """
    try:
        score = scorer(prompt, answer, given)
        number = float(score)
    except Exception as error:  # whatever a user's function raises
        raise MixalignError(
            f"`data.tasks.{task}.scorer` failed on the answer {given[:200]!r} to a row with the answer "
            f"{answer[:200]!r}: {type(error).__name__}: {error}. It is called with prompt, answer and generated text. "
            f"{MEND}"
        ) from error
    if not math.isfinite(number):
        raise MixalignError(
            f"`data.tasks.{task}.scorer` gave {score!r} for {given[:200]!r}, but must give a finite number. {MEND}"
        )
    return number
