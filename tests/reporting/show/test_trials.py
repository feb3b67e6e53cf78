"""Trials of a search in the report: sorted, the best marked, reasons of those that failed."""

import json

import pytest

from mixalign.errors import MixalignError
from mixalign.reporting.read.trials import TRIALS, ended_by_search, read_search, searches_of
from mixalign.reporting.show.figures.trials import slice_figures
from mixalign.reporting.show.page import write_report
from mixalign.reporting.show.trials import failures, search_text, sentences, trials_table
from mixalign.reporting.show.view import page_of
from tests.reporting.made_up import find


def trial(number, state="complete", value=None, **more):
    values = {"mixer": "ama_s", "mixer.eta": f"{0.01 * 4**number:.4g}"}
    entry = {"number": number, "folder": str(number), "values": values, "state": state, "value": value, "step": 8}
    return entry | {"monitor": "eval/worst_excess", "same_as": None, "reason": ""} | more


ENTRIES = [
    trial(0, value=0.3),
    trial(1, "failed", reason="The loss of task <a> is not finite."),
    trial(2, "pruned", 0.25, reason="above the median"),
    trial(3, value=0.1, values={"mixer": "uniform"}),
    trial(4, value=0.1, same_as=3, values={"mixer": "uniform"}),
    trial(5, value=0.2),
    trial(6, "failed", reason="The loss of task <a> is not finite.", folder=None),
    trial(7, "unfinished"),
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / TRIALS).write_text(json.dumps({"trials": ENTRIES}))
    return tmp_path / "runs"


def test_trials_are_sorted_and_the_best_is_marked(folder):
    search = read_search(folder)
    table = trials_table(search)
    assert table.titles == ["trial", "mixer", "mixer.eta", "state", "worst excess"]
    assert [row[0] for row in table.rows] == ["3", "5", "0", "2", "7", "1", "6"]
    assert table.rows[0][1:] == ["uniform", "-", "complete (best)", "0.1000"]
    assert table.rows[3][-1] == "(0.2500, step 8)"
    assert sentences(search)[0] == (
        "7 different trials, by worst excess on validation rows: 3 complete, 1 pruned, 1 unfinished, 2 failed; "
        "1 more had values that were tried before."
    )
    assert failures(search) == ["trials 1, 6 failed: The loss of task <a> is not finite."]
    text = search_text(search)
    assert f"best: {folder / '3'}" in " ".join(text.split())


def test_a_search_without_a_complete_trial_has_no_best(folder):
    left = [entry for entry in ENTRIES if entry["state"] != "complete"]
    (folder / TRIALS).write_text(json.dumps({"trials": left}))
    search = read_search(folder)
    assert search.best is None
    assert "best" not in search_text(search)
    assert len(sentences(search)) == 1


def test_a_figure_for_each_key_that_has_something_to_show(folder):
    mixer, eta = slice_figures(read_search(folder))
    assert mixer.axes["xaxis"]["type"] == "category"
    assert eta.axes["xaxis"]["type"] == "log"
    by_kind = {one["name"]: (one["x"], one["y"]) for one in mixer.traces}
    assert by_kind == {
        "pruned": (["ama_s"], [0.25]),
        "complete": (["ama_s", "ama_s"], [0.2, 0.3]),
        "best": (["uniform"], [0.1]),
    }
    texts = ("1", "3", "inf")
    ends = [trial(n, value=1.0 + n, values={"mixer.temperature": text}) for n, text in enumerate(texts)]
    (folder / TRIALS).write_text(json.dumps({"trials": ends}))
    (figure,) = slice_figures(read_search(folder))
    assert figure.axes["xaxis"]["type"] == "category", "no axis of numbers has infinity"
    assert sorted(x for one in figure.traces for x in one["x"]) == [*texts]
    few = [entry for entry in ENTRIES if entry["number"] in (0, 3)]
    (folder / TRIALS).write_text(json.dumps({"trials": few}))
    assert slice_figures(read_search(folder)) == []


def test_the_page_has_the_trials_and_ended_runs_are_not_called_unfinished(folder, write_run, tmp_path):
    for number, mixer in ((0, "ama_s"), (3, "uniform")):
        write_run(mixer, 0, {"a": 0.1, "b": 0.2}, folder=f"runs/{number}")
    write_run("ama_s", 1, folder="runs/2", finished=False)
    runs = find(folder)
    (search,) = searches_of([folder.parent], runs)
    assert [run.skipped for run in ended_by_search(runs, [search])] == ["", "pruned trial 2 of the search", ""]
    text = write_report(runs, tmp_path / "report.html", searches=[search]).read_text()
    for part in ("/runs</h2>", "complete <small>(best)</small>", "7 different trials", "&lt;a&gt; is not finite"):
        assert part in text
    assert "no eval.json" not in text
    assert searches_of([folder / "0"], find(folder / "0")) == [], "a run alone is not the search"


def test_many_trials_are_opened_by_the_reader(folder, write_run):
    write_run("ama_s", 0, folder="runs/0")
    (folder / TRIALS).write_text(json.dumps({"trials": [trial(n, value=1.0 + n) for n in range(40)]}))
    (search,) = page_of(find(folder), searches=[read_search(folder)]).searches
    assert (len(search.table.rows), len(search.more.rows)) == (15, 25)
    assert search.table.shaded == "0"


@pytest.mark.parametrize("text", ['{"trials": 3}', '{"trials": [{"number": 1}]}', "{"])
def test_a_damaged_file_is_named_and_takes_nothing_else_from_the_page(text, folder, caplog):
    (folder / TRIALS).write_text(text)
    with pytest.raises(MixalignError, match=r"trials\.json"):
        read_search(folder)
    assert searches_of([folder], []) == []
    assert "trials.json" in caplog.text
    assert "The table of the trials is left out." in caplog.text
