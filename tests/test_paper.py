"""`make paper`: its runs on tiny rows, killed once; verdicts on made-up figures; what is skipped says why."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mixalign.config.compose import CONF, compose_settings

ROOT = Path(__file__).resolve().parents[1]
TINY = ["model=tiny", "model.hidden_size=16", "model.num_layers=1", "lora=none", "engine.threads=1", "batch_size=6"]
TINY += ["specialists.steps=2", "val_every=2", "influence.samples=8", "optimizer.lr=0.001", "data.max_length=64"]
DOMAINS = ("coding", "instruction", "math", "reasoning", "safety")


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def write_rows(folder):
    """Three preference tasks and the five domains, of unequal sizes."""
    for n, task in enumerate(("harmless", "helpful", "math")):
        rows = [{"prompt": f"{k} {task}:", "chosen": f" {k + n}", "rejected": f" {k - n - 1}"} for k in range(24)]
        write_task(folder / "preference" / task, rows, 4 + 2 * n)
    for n, task in enumerate(DOMAINS):
        rows = [{"prompt": f"{k} {task}:", "completion": f" {(k * (n + 2)) % 10}"} for k in range(24)]
        write_task(folder / "sft" / task, rows, 4 + 2 * n)


def write_task(folder, rows, most):
    folder.mkdir(parents=True)
    for split, part in (("train", rows[:most]), ("validation", rows[16:20]), ("test", rows[20:])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))


def start(tmp_path, part, variants, *more):
    command = [sys.executable, "benchmarks/paper.py", "full", "--parts", part, "--seeds", "2", "--jobs", "1"]
    command += ["--variants", *variants, "--rows", str(tmp_path / "rows"), "--runs", str(tmp_path / "runs")]
    command += ["--json", str(tmp_path / "paper.json"), "--overrides", *TINY, *more]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=env, **pipes)


def finish(process):
    with process:
        try:
            said, _ = process.communicate(timeout=240)
        finally:
            process.kill()
    assert process.returncode == 0, said
    return said


@pytest.mark.long
def test_a_command_that_was_killed_trains_nothing_again(tmp_path):
    write_rows(tmp_path / "rows")
    folder, end = tmp_path / "runs" / "full" / "ama", time.monotonic() + 240
    first, variants = folder / "proportional_seed0", ("proportional", "uniform", "ama_s")
    with start(tmp_path, "ama", variants, "steps=4") as process:
        while not (first / "paper.txt").is_file() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        said = process.stdout.read()  # to its end: the processes that train have it open as well
    assert (first / "paper.txt").is_file(), said
    made = (first / "eval.json").stat().st_mtime_ns
    said = finish(start(tmp_path, "ama", variants, "steps=4"))
    assert (first / "eval.json").stat().st_mtime_ns == made
    assert "ama_s, seed 1; about 0 min left" in said
    part = json.loads((tmp_path / "paper.json").read_text())["parts"]["ama"]
    assert all(None not in part["scores"][label]["worst_excess"] for label in (*variants, "merge_linear", "merge_ties"))
    assert part["scores"]["doremi"] == {}  # not asked for
    assert part["objective_along"]["ama_s"][1]["steps"] == [2, 4]
    assert "| `ama_s` beats the total loss | worst excess | below 0 |" in said
    assert not (first / "checkpoints").exists()
    assert "seeds of set-ups are to be trained" not in finish(start(tmp_path, "ama", variants, "steps=4"))


@pytest.mark.long
def test_rounds_and_mixtures_at_their_volume(tmp_path):
    write_rows(tmp_path / "rows")
    at_volume = ("proportional at IDEAL's volume", "doge at IDEAL's volume")
    start_label = "ideal m=0.15, random start"
    said = finish(start(tmp_path, "ideal", ("joint", "ideal m=0.15", start_label, "doge", *at_volume)))
    part = json.loads((tmp_path / "paper.json").read_text())["parts"]["ideal"]
    rounds = part["rounds"]["ideal m=0.15"][0]
    assert [entry["round"] for entry in rounds] == [0, 1, 2]
    assert set(rounds[2]["predicted_change"]) == set(rounds[2]["change"]) == set(DOMAINS)
    drawn = [run[0]["volumes"] for run in part["rounds"][start_label]]
    assert drawn[0] != drawn[1]  # by seed
    assert all(drawn[0][task] <= rows["train"] for task, rows in part["rows"].items())
    for label in at_volume:
        folder = tmp_path / "runs" / "full" / "ideal" / f"{''.join(c if c.isalnum() else '_' for c in label)}_seed0"
        assert json.loads((folder / "eval.json").read_text())["steps"] == rounds[2]["steps"]
    assert "not measured" in said  # what was not asked for
    assert all(None not in part["scores"][f"ideal m=0.15, round {n}"]["mean_loss"] for n in (0, 1, 2))


@pytest.mark.parametrize(
    ("low", "high", "higher", "size", "word"),
    [
        (-0.3, -0.1, False, None, "seen"),
        (-0.3, 0.1, False, None, "not decidable at this size"),
        (0.1, 0.3, False, None, "not seen"),  # the opposite
        (0.1, 0.3, True, None, "seen"),
        (-0.3, -0.1, True, None, "not seen"),
        (0.01, 0.03, True, 0.05, "not seen"),  # less than what is claimed
        (0.01, 0.06, True, 0.05, "seen"),
        (-0.01, 0.04, True, 0.05, "not seen"),
        (-0.01, 0.06, True, 0.05, "not decidable at this size"),
    ],
)
def test_verdicts(module, low, high, higher, size, word):
    claims = module("paper_claims")
    assert claims.verdict(claims.Claim("it helps", "loss", [], [], higher, size), low, high) == word


def test_verdicts_follow_the_correction_for_all_claims(module):
    """Differences of -.1 +- .01 over four seeds, p = .00127; alone and among 60 claims of which nothing is seen."""
    claim, table = module("paper_claims").Claim, module("paper_table").claims_table
    one = claim("small", "loss", [-0.11, -0.09, -0.12, -0.08], [0.0] * 4)
    none = claim("none", "loss", [1.0, -1.0, 1.0, -1.1], [0.0] * 4)
    worse = claim("worse", "loss", [1.001, 1.0, 1.0, 1.001], [0.0] * 4)
    missing = claim("missing", "loss", [None, 1.0, None, None], [0.0] * 4)
    assert "| small | loss | below 0 | -0.100 | [-0.129, -0.071] | **seen** |" in table([one])
    few = claim("few", "loss", [-0.1, -0.1001], [0.0] * 2)
    assert table([few]).endswith("**not decidable at this size** |")  # two seeds, and nothing should rest on them
    lines = table([one, worse, missing, *[none] * 60]).splitlines()[2:]
    assert lines[0].endswith("**not decidable at this size** |")
    assert lines[1].endswith("**not seen** |")
    assert lines[2] == "| missing | loss | below 0 | +1.000 | one seed | **not decidable at this size** |"
    assert table([claim("none", "loss", [None], [0.0])]).endswith("| none | loss | below 0 | - | - | not measured |")


def test_corrected_intervals_leave_zero_out_where_holm_does(module):
    tables, values = module("tables"), ([0.3, 0.32, 0.31], [0.1, 0.3, 0.2], [1.0, -1.0, 0.2], [0.2, 0.22, 0.2])
    pairs = {n: tables.between(mine, [0.0] * 3) for n, mine in enumerate(values)}
    intervals, p_values = tables.corrected_intervals(pairs), tables.corrected(pairs)
    assert [low > 0 for low, _ in (intervals[n] for n in pairs)] == [p < 0.05 for p in p_values.values()]
    assert [p < 0.05 for p in p_values.values()] == [True, False, False, True]


def test_rank_correlation(module):
    rho = module("paper_claims").rank_correlation
    assert rho([(1, 10), (2, 20), (3, 15)]) == pytest.approx(0.5)
    assert rho([(1, 3), (2, 2), (3, 1)]) == pytest.approx(-1)
    assert rho([(0, 3), (0, 2)]) is None


def test_imbalance_is_over_single_domain_specialists(module):
    """Gaps of .3 and .1 to them: the worst is .1 above their mean; a seed without all of them has none."""
    alone = {"only a": {"loss": [{"a": 1.0, "b": 9.0}, None]}, "only b": {"loss": [{"a": 9.0, "b": 2.0}] * 2}}
    scores = {"joint": {"loss": [{"a": 1.3, "b": 2.1}] * 2}, **alone}
    part = {"rows": {"a": {}, "b": {}}, "seeds": 2, "scores": scores}
    assert module("paper_claims").values_of(part, "joint", "imbalance") == [pytest.approx(0.1), None]


def test_parts_that_cannot_run_are_skipped_with_a_reason(module, tmp_path, monkeypatch, capsys):
    paper = module("paper")
    monkeypatch.setattr(sys, "argv", ["paper.py", "--rows", str(tmp_path), "--json", str(tmp_path / "paper.json")])
    monkeypatch.chdir(tmp_path)
    before = {"form": "quick", "parts": {"ideal": {"skipped": "no time"}}}
    (tmp_path / "paper.json").write_text(json.dumps(before))
    assert paper.main() == 0
    said = capsys.readouterr().out
    assert f"ama is skipped: there are no rows in {tmp_path}/preference" in said
    assert f"Skipped: there are no rows in {tmp_path}/preference." in said
    assert "Skipped: no time." in said
    assert json.loads((tmp_path / "paper.json").read_text()) == before  # nothing that was measured is lost


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "paper").glob("[!_]*.yaml")))
def test_its_files_compose(name):
    settings = compose_settings([f"paper={name}", "seed=3"])
    assert settings.specialists.seed == settings.seed == 3
    assert settings.export == "averaged"
    assert settings.objective_name == ("dpo" if name.startswith("ama") else "sft")


def test_the_blocks_of_the_page_are_those_of_the_results(module):
    table = module("paper_table")
    text = table.PAGE.read_text()
    assert text.count("made by benchmarks/paper_table.py -->") == 2
    assert table.document(text, json.loads(table.RESULTS.read_text())) == text, "run `python benchmarks/paper_table.py`"


def test_the_figures_of_which_mixer_are_those_of_the_results(module):
    page = module("which_mixer")
    text = page.PAGE.read_text()
    assert text.count("<!-- figure: ") == text.count("<!-- / -->") > 10
    assert page.with_figures(text) == text, "run `python benchmarks/paper_table.py`"
    assert page.with_figures("x <!-- figure: arena; nothing; mean_loss -->1<!-- / -->") == (
        "x <!-- figure: arena; nothing; mean_loss -->not measured<!-- / -->"
    )
