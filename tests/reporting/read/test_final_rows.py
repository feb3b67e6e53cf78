"""Which rows the final numbers are of."""

from dataclasses import dataclass, field

import pytest

from mixalign.reporting.read.final_rows import FinalRows


@dataclass
class Ran:
    eval: dict = field(default_factory=dict)
    split: str = ""


def ran(split="test", **tasks):
    return Ran({"tasks": {task: {"split": name} if name else {} for task, name in tasks.items()}}, split)


@pytest.mark.parametrize(
    ("runs", "word", "named"),
    [
        ([ran(a="test", b="test")], "test", None),
        ([ran(a=None, b=None)], "test", None),  # of older runs, by the split of the run
        ([ran("validation", a=None)], "validation", "all tasks"),
        ([ran("validation", a="validation", b="validation")], "validation", "all tasks"),
        ([ran(a="test", b="validation"), ran(a="test", b="validation")], "final", "of b are"),
        ([ran("")], "test", None),
    ],
)
def test_what_they_are_called_and_what_must_be_known(runs, word, named):
    found = FinalRows.of(runs)
    assert found.word == word
    assert (named in found.caution) if named else (found.caution == "")
