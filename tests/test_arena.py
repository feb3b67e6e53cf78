"""The arena: its set-ups span what they should, its statistics are right, it resumes, and documents have its tables."""

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mixalign.config.compose import CONF, compose_settings
from mixalign.errors import MixalignError
from mixalign.training.average_share import share_of

ROOT = Path(__file__).resolve().parents[1]
SMALL = sorted(path.stem for path in (CONF / "arena").glob("[!_]*.yaml") if not path.stem.startswith("smol"))


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("arena_table")


@pytest.fixture
def arena(monkeypatch, table):
    return importlib.import_module("arena")


def results(**scores):
    """One set-up; a mixer's scores by seed, the same for all measures."""
    measures = ("worst_excess", "mean_excess", "worst_gap", "mean_loss", "cpu_seconds")
    found = {label: dict.fromkeys(measures, values) for label, values in scores.items()}
    setup = {"what": "a set-up", "tasks": 3, "steps": 10, "objective": "dpo", "test_rows": 1000, "scores": found}
    return {"form": "quick", "seeds": 4, "mixers": [*scores], "setups": {"one": setup}}


@pytest.mark.long
def test_set_ups_span_what_decides_whether_mixing_matters():
    settings = {name: compose_settings([f"arena={name}"]) for name in SMALL}
    assert len(settings) >= 14
    assert {3, 6, 12, 30} <= {len(s.data.tasks) for s in settings.values()}
    assert {"dpo", "sft"} == {s.objective_name for s in settings.values()}
    assert {True, False} == {s.lora is not None for s in settings.values()}
    sizes = [[task.rows for task in s.data.tasks.values()] for s in settings.values()]
    assert any(max(rows) == 100 * min(rows) for rows in sizes)
    six = {s.steps for s in settings.values() if s.objective_name == "dpo" and len(s.data.tasks) == 6}
    assert max(six) >= 5 * min(six)


@pytest.mark.long
@pytest.mark.parametrize("name", SMALL)
def test_a_small_set_up_is_independent_by_seed_and_judged_on_enough_rows(name):
    s = compose_settings([f"arena={name}", "seed=7"])
    assert {s.data.seed, s.model.seed, s.reference.seed, s.specialists.seed} == {7}
    assert all(task.test_rows >= 1000 for task in s.data.tasks.values())
    assert s.export == "averaged"
    assert s.specialists.train == "always"


def test_differences_are_paired_and_corrected(table):
    """-.1 +- 0 (exact), and differences 1, -1, 1, -1, whose interval holds zero."""
    found = results(uniform=[0.5, 0.6, 0.7, 0.8], better=[0.4, 0.5, 0.6, 0.7], level=[1.5, -0.4, 1.7, -0.2])
    pairs = table._pairs(found, "worst_excess")
    assert pairs["one", "better"].mean == pytest.approx(-0.1)
    assert pairs["one", "better"].high < 0
    assert pairs["one", "level"].low < 0 < pairs["one", "level"].high
    text = table.all_tables(found)
    assert r"-0.100 [-0.100, -0.100] \*\*" in text
    pooled = [line for line in table.pooled_table(found).splitlines() if "better" in line or "level" in line]
    assert pooled[0].startswith("| `better` | 1.0 | -0.67 | 1, 0 of 1 (uncorrected 1, 0) |")
    assert pooled[1].startswith("| `level` | 2.5 | +0.00 | 0, 0 of 1 |")
    assert table._standardised(found["setups"]["one"], "worst_gap", "better") == pytest.approx(
        -0.1 / math.sqrt(1 / 60) * 20 / 23
    )


def test_a_run_that_failed_is_left_out_with_its_pair(table):
    found = results(uniform=[0.5, None, 0.7, 0.8], other=[0.4, 0.1, 0.6, None])
    pair = table._pairs(found, "worst_excess")["one", "other"]
    assert (pair.n, pair.mean) == (2, pytest.approx(-0.1))
    assert table._ranks(found["setups"]["one"], "worst_gap", ["uniform", "other"]) == {"other": 1, "uniform": 2}


def test_a_table_goes_between_its_marks(table):
    marks = "<!-- arena: made by benchmarks/arena_table.py -->\n", "<!-- end of arena -->"
    assert table.with_block(f"a\n{marks[0]}old\n{marks[1]}\nb", "new \\1") == f"a\n{marks[0]}new \\1\n{marks[1]}\nb"
    assert table.with_block("no marks", "new") == "no marks"


def test_the_tables_of_the_documents_are_those_of_the_results(table):
    assert table.RESULTS.is_file()
    for path, text in table.documents(json.loads(table.RESULTS.read_text())).items():
        assert "made by benchmarks/arena_table.py -->" in text
        assert path.read_text() == text, f"{path.name}: run `python benchmarks/arena_table.py`"


def test_the_default_mixer_is_the_lowest_that_is_ahead_of_uniform_and_loses_nowhere(table):
    """`lowest` is no more than noise ahead, and `loser` has one set-up that it loses and four that it wins."""
    rule = importlib.import_module("chosen_defaults")
    base = [0.5, 0.6, 0.7, 0.8]
    ahead, lowest = [0.4, 0.51, 0.6, 0.71], [0.0, 1.2, 0.1, 0.7]
    found = results(uniform=base, worse=[0.6, 0.7, 0.81, 0.9], ahead=ahead, lowest=lowest)
    assert rule.chosen_mixer(found) == "ahead"
    assert rule.chosen_mixer(results(uniform=base, lowest=lowest)) is None
    loser = results(uniform=base, ahead=ahead, loser=[0.1, 0.21, 0.3, 0.41])
    lost = results(uniform=base, ahead=ahead, loser=[0.6, 0.701, 0.8, 0.901])["setups"]["one"]
    loser["setups"] |= dict.fromkeys(("two", "three", "four"), loser["setups"]["one"])
    assert rule.chosen_mixer(loser) == "loser"
    loser["setups"]["five"] = lost
    assert rule.ahead_of(loser, "loser", "uniform").high < 0
    assert rule.chosen_mixer(loser) == "ahead"


def test_the_default_export_is_the_first_that_is_level_with_the_lowest(table):
    rule = importlib.import_module("chosen_defaults")
    both, mean, best, last = rule.EXPORTS
    scores = {mean: [0.5, 0.6, 0.7, 0.8], best: [0.4, 0.51, 0.6, 0.71], last: [0.9, 0.9, 0.9, 0.9]}
    assert rule.chosen_export(results(**scores, **{both: [0.41, 0.5, 0.62, 0.7]})) == both
    assert rule.chosen_export(results(**scores, **{both: [0.5, 0.6, 0.7, 0.8]})) == best
    assert rule.chosen_export(results(**scores)) == best


def test_the_defaults_of_train_follow_from_the_results(table):
    rule, own = importlib.import_module("chosen_defaults"), compose_settings([])
    mixer = rule.chosen_mixer(json.loads(table.RESULTS.read_text())).split()
    assert own.mixer == compose_settings([f"mixer={mixer[0]}", *mixer[1:]]).mixer
    label = rule.chosen_export(json.loads(rule.EXPORTED.read_text()))
    wanted = compose_settings(label.split()[1:] or ["export=averaged"])
    assert (own.export, share_of(own.export, own.average_last)) == (
        wanted.export,
        share_of(wanted.export, wanted.average_last),
    )


def test_set_ups_that_cannot_run_are_skipped_with_a_reason(arena, tmp_path, monkeypatch):
    assert arena.why_skipped("noisy", "quick") == ""
    assert "takes longer than quick=1 has" in arena.why_skipped("smol_dpo", "quick")
    monkeypatch.chdir(tmp_path)
    assert arena.why_skipped("smol_sft", "full") == "there are no rows in ../shared/data/sft"
    with pytest.raises(MixalignError, match=r"There is no set-up `nosy` .* Known: all_easy, "):
        arena.why_skipped("nosy", "quick")


TINY = [
    "steps=4",
    "reference.sft_steps=2",
    "specialists.steps=2",
    "model.hidden_size=16",
    "val_every=4",
    "batch_size=6",
]


def start(tmp_path):
    command = [sys.executable, "benchmarks/arena.py", "quick", "--setups", "three_starving", "--seeds", "1"]
    command += ["--mixers", "uniform", "ama_s mixer.eta=0.2", "--jobs", "1", "--runs", str(tmp_path / "runs")]
    command += ["--json", str(tmp_path / "arena.json"), "--overrides", *TINY]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=env, **pipes)


@pytest.mark.long
def test_it_goes_on_where_it_was_killed(tmp_path):
    """Behind the first finished run; that one is not made again, and nothing that was started is left."""
    first, end = tmp_path / "runs" / "three_starving" / "uniform_seed0" / "arena.txt", time.monotonic() + 240
    with start(tmp_path) as process:
        while not first.is_file() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        said = process.stdout.read()  # to its end: the processes that train have it open as well
    assert first.is_file(), said
    made = (first.parent / "eval.json").stat().st_mtime_ns
    with start(tmp_path) as process:
        try:
            said, _ = process.communicate(timeout=240)
        finally:
            process.kill()
    assert process.returncode == 0, said
    assert (first.parent / "eval.json").stat().st_mtime_ns == made
    found = json.loads((tmp_path / "arena.json").read_text())["setups"]["three_starving"]["scores"]
    assert [*found] == ["uniform", "ama_s mixer.eta=0.2"]
    assert all(len(scores["worst_excess"]) == 1 and None not in scores["worst_excess"] for scores in found.values())
    assert "1 seeds, 2 mixers, at least 1,000 test rows a task" in said
    assert not (first.parent / "checkpoints").exists()
