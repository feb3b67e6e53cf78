"""The path of the mixture and the validation history, whole and torn."""

import json

import numpy as np
import pytest

from mixalign.errors import MixalignError
from mixalign.reporting.read.history import read_mix_history, read_validation
from mixalign.reporting.read.runs import load_run
from tests.reporting.made_up import find

PATHS = ((0, [0.5, 0.5]), (1, [0.7, 0.3]))  # seeds, and where the mixture goes from uniform


def test_alpha_is_the_loss_weight_where_there_is_one(write_run):
    path = write_run("ama_s", 0, {"a": 0.1, "b": 0.2}, steps=2)
    lines = [
        {
            "step": 1,
            "sample": [0.25, 0.75],
            "loss": None,
            "excess": None,
            "task_loss": [1, None],
            "count": [4, 0],
        },
        {"step": 2, "sample": [0.5, 0.5], "loss": [0.4, 1.6], "excess": [0.1, None], "task_loss": [1, 2]},
    ]
    (path / "mix.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    history = load_run(path).mix_history
    np.testing.assert_allclose(history.alpha_NK, [[0.25, 0.75], [0.2, 0.8]])
    np.testing.assert_array_equal(history.excess_NK, [[np.nan, np.nan], [0.1, np.nan]])
    np.testing.assert_array_equal(history.count_NK, [[4, 0], [np.nan, np.nan]])


def test_half_a_last_line_is_left_out(write_run):
    path = write_run("ama_s", 0, {"a": 0.1, "b": 0.2}, steps=5)
    text = (path / "mix.jsonl").read_text()
    (path / "mix.jsonl").write_text(text + '{"step": 6, "sam')
    assert len(load_run(path).mix_history.step_N) == 5


def test_a_mixture_moves_or_stays(write_run):
    stays, moves = (load_run(write_run("ama_s", seed, {"a": 0.1, "b": 0.2}, target=t)).mix_history for seed, t in PATHS)
    assert not stays.moved
    assert moves.moved


def test_steps_that_an_older_version_counted_from_0_are_counted_from_1(tmp_path):
    for first in (0, 1):
        lines = [{"step": first + n, "sample": [0.5, 0.5]} for n in range(3)]
        (tmp_path / "mix.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert read_mix_history(tmp_path / "mix.jsonl", []).step_N.tolist() == [1, 2, 3]


@pytest.mark.parametrize("text", ["", "\n", '{"step": 1', '{"step": 1}\n', '{"step": 1, "sample": 3}\n'])
def test_a_mixture_without_tasks_is_none(text, tmp_path):
    (tmp_path / "mix.jsonl").write_text(text)
    assert read_mix_history(tmp_path / "mix.jsonl", []) is None


HEADER = "step,train/loss,eval_loss/a\r\n"


@pytest.mark.parametrize(
    ("text", "steps", "values"),
    [
        ("", None, None),
        (HEADER, None, None),
        (HEADER + "1,0.5,\r\n2,,0.25\r\n", [2], [0.25]),
        (HEADER + "1,,0.5\r\n2,,0.2", [1], [0.5]),  # cut off: 0.25, perhaps
        (HEADER + "1,,0.5\r\n2,", [1], [0.5]),
        (HEADER + "2,,0.5\r\n\r\n2,,0.25\r\n1,,x\r\n", [1, 2], [np.nan, 0.25]),
        (HEADER + ",,0.5\r\n1,,nan\r\n", [1], [np.nan]),
    ],
)
def test_validation(text, steps, values, tmp_path):
    (tmp_path / "metrics.csv").write_text(text, newline="")
    history = read_validation(tmp_path / "metrics.csv")
    assert set(history) == ({"eval_loss/a"} if steps else set())
    if steps:
        np.testing.assert_array_equal(history["eval_loss/a"], [steps, values])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,0.5", r"line 3, has 2 cells; the header has 3"),
        ("1,,0.52,,0.25", r"line 3, has 5 cells; the header has 3"),  # half a line, and the next one behind it
        ("one,,0.5", r"line 3: `step` is 'one'; a number is wanted"),
        ("inf,,0.5", r"line 3: `step` is 'inf'"),
    ],
)
def test_a_damaged_row_of_metrics_is_named_and_its_run_skipped(row, message, write_run, tmp_path):
    path = write_run("ama_s", 0)
    (path / "metrics.csv").write_text(f"{HEADER}1,,0.5\r\n{row}\r\n3,,0.1\r\n", newline="")
    with pytest.raises(MixalignError, match=message):
        load_run(path)
    assert "metrics.csv" in find(tmp_path)[0].skipped
