"""Which rows the final numbers are of, and that all that shows them says it in the same words."""

import json
import re

import pytest

from mixalign.final_rows import FinalRows
from mixalign.jobs.tasks import filled
from mixalign.reporting.read.runs import load_run
from mixalign.reporting.show.card_text import results
from mixalign.reporting.show.page import write_report
from mixalign.reporting.show.text import report_text
from mixalign.runs.summary import eval_table
from tests.reporting.conftest import write_run  # noqa: F401
from tests.reporting.made_up import find


def result(split="test", **tasks):
    return {"tasks": {task: {"split": name} if name else {} for task, name in tasks.items()}, "split": split}


@pytest.mark.parametrize(
    ("results", "word", "named"),
    [
        ([result(a="test", b="test")], "test", None),
        ([result(a=None, b=None)], "test", None),  # of older runs, by the split of the run
        ([result("validation", a=None)], "validation", "all tasks"),
        ([result("validation", a="validation", b="validation")], "validation", "all tasks"),
        ([result(a="test", b="validation"), result(a="test", b="validation")], "test or validation", "of `b` are"),
        ([result("")], "test", None),
    ],
)
def test_what_they_are_called_and_what_must_be_known(results, word, named):
    found = FinalRows.of(results)
    assert found.word == word
    assert (named in found.caution) if named else (found.caution == "")


@pytest.mark.parametrize("split", ["test", "validation"])
def test_log_terminal_page_and_card_say_it_in_the_same_words(split, write_run, tmp_path, caplog):  # noqa: F811
    run = write_run("ama_s", 0, {"a": 0.1, "b": 0.2})
    held = json.loads((run / "eval.json").read_text())
    for task, one in (("a", "test"), ("b", split)):
        held["tasks"][task]["split"] = one
    (run / "eval.json").write_text(json.dumps(held))
    made = {"train": dict.fromkeys("ab"), "validation": dict.fromkeys("ab", 1), "test": {"a": 1}}
    filled(made | ({"test": {"a": 1, "b": 1}} if split == "test" else {}))
    page = write_report(find(run), tmp_path / "report.html").read_text()
    said = {
        "log": caplog.text,
        "final table": eval_table(held),
        "report in a terminal": report_text(find(run)),
        "page": re.sub("</?code>", "`", page).replace("&lt;", "<").replace("&gt;", ">"),
        "card": results(load_run(run)),
    }
    rows = FinalRows.of([held])
    assert bool(rows.caution) == bool(rows.note) == (split == "validation")
    for place, text in said.items():
        words, wanted = " ".join(text.split()), rows.note if place == "final table" else rows.caution
        assert (wanted in words) if wanted else ("are of validation rows" not in words), place
