"""Generated answers of a run, read back."""

from dataclasses import dataclass
from pathlib import Path

from mixalign.reporting.read.files import number, parse_object, read_text

__all__ = ["Sample", "read_generations"]


@dataclass(frozen=True)
class Sample:
    """One prompt.

    Attributes:
        answer: the row's own. `before`, `after`: what the start model and the result generate.
        score_before, score: of these two; NaN where the task has no scorer.
    """

    task: str
    prompt: str
    answer: str
    before: str
    after: str
    score_before: float
    score: float


def read_generations(path: Path) -> tuple[Sample, ...]:
    """The samples in a file of JSON lines, none where there is no file.

    Raises:
        MixalignError: it cannot be read; the line is named.
    """
    if not path.is_file():
        return ()
    found = []
    for line, text in enumerate(read_text(path).splitlines(), 1):
        entry = parse_object(text, path, line)
        task, prompt, answer, before, after = (
            str(entry.get(key, "")) for key in ("task", "prompt", "answer", "before", "after")
        )
        score_before, score = number(entry.get("score_before")), number(entry.get("score"))
        found.append(Sample(task, prompt, answer, before, after, score_before, score))
    return tuple(found)
