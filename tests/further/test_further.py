"""Any model on rows that it never saw: what is said equals eval.json, wherever the model comes from."""

import json
import re
import shutil

import pytest

from mixalign.data.generated import generate
from mixalign.errors import MixalignError
from mixalign.reporting.read.runs import load_run
from mixalign.reporting.show.page import write_report
from mixalign.verbs.evaluate import run_further
from tests.tiny_runs import HELD_OUT, TASKS


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The test rows of the tiny runs, a file a task."""
    folder = tmp_path_factory.mktemp("rows")
    for task in TASKS:
        lines = [json.dumps(row) for row in generate(task, HELD_OUT, "test", 0)]
        (folder / f"{task}.jsonl").write_text("\n".join(lines))
    return folder


def results(run):
    return json.loads((run / "eval.json").read_text())


def test_a_run_on_its_own_test_rows_has_the_numbers_of_its_eval_json(copy, rows, tmp_path, capsys):
    before = results(copy)
    found = run_further(str(copy), data=rows, out=tmp_path / "out.json")
    for task, row in found["tasks"].items():
        for name in ("loss", "accuracy", "margin"):
            assert row[name] == pytest.approx(before["tasks"][task][name], abs=2e-6), (task, name)
        assert row["start_nll"] > 0
        assert row["start_nll"] != row["nll"]
        assert 0 <= row["logp_accuracy"] <= 1
        assert row["rows"] == HELD_OUT
    assert list(found["tasks"]) == sorted(TASKS)
    assert json.loads((tmp_path / "out.json").read_text()) == found
    after = results(copy)
    assert after.pop("further") == {rows.name: found}
    assert after == before, "what the run said of itself stays"
    assert "start->end" in capsys.readouterr().out


def test_other_rows_are_added_and_the_rest_of_the_card_stays(copy, rows, tmp_path):
    card = copy / "model" / "README.md"
    card.write_text(card.read_text().replace("## Training", "## A section of my own\n\nMine.\n\n## Training"))
    run_further(str(copy), data=rows / "reverse.jsonl")
    run_further(str(copy / "model"), data=rows / "compare.jsonl")
    run_further(str(copy), data=rows / "compare.jsonl")
    assert list(results(copy)["further"]) == ["reverse.jsonl", "compare.jsonl"]
    text = card.read_text()
    assert text.count("## Further results") == 1
    assert "| reverse.jsonl: reverse | 8 |" in text
    assert "| compare.jsonl: compare | 8 |" in text
    assert text.index("## Results") < text.index("## Further results") < text.index("## Training")
    assert "Mine.\n\n" in text
    page = write_report([load_run(copy)], tmp_path / "report.html").read_text()
    assert "Further results</h3>" in page
    assert "reverse.jsonl: reverse" in page


def test_a_folder_without_a_run_has_what_needs_no_reference(copy, rows, tmp_path):
    of_run = run_further(str(copy), data=rows)
    alone = run_further(str(shutil.copytree(copy / "model", tmp_path / "alone")), data=rows)
    for task, row in alone["tasks"].items():
        assert {*row} == {"rows", "kind", "source", "nll", "nll_other", "logp_accuracy"}
        for name in ("nll", "nll_other", "logp_accuracy"):
            assert row[name] == pytest.approx(of_run["tasks"][task][name], abs=1e-6)
    assert {*alone["measures"]} == {"nll", "nll_other", "logp_accuracy"}


def test_an_unfinished_run_is_measured_by_its_best_checkpoint(copy, rows, caplog):
    whole = run_further(str(copy), data=rows)
    assert results(copy)["exported"]["monitor"] == "eval/worst_excess"
    step = results(copy)["exported"]["step"]
    shutil.rmtree(copy / "model")
    (copy / "eval.json").unlink()
    part = run_further(str(copy), data=rows)
    assert f"best checkpoint so far by eval/worst_excess, step{step}.ckpt" in part["model"]
    assert "not finished" in part["model"]
    for task, row in part["tasks"].items():
        assert row == pytest.approx(whole["tasks"][task], abs=1e-6)
    assert not (copy / "eval.json").exists(), "it says that a run is finished"
    assert "--out keeps them" in caplog.text


@pytest.mark.long
def test_so_it_is_with_adapters(train, rows):
    run = train("lora=default", "lora.r=2", "optimizer.lr=0.05", "mixer=uniform", "specialists.train=never")
    whole = run_further(str(run), data=rows)
    for task, row in whole["tasks"].items():
        assert row["loss"] == pytest.approx(results(run)["tasks"][task]["loss"], abs=2e-6)
    alone = run_further(str(run / "model"), data=rows)
    assert alone["mean"] == pytest.approx(whole["mean"])
    shutil.rmtree(run / "model")
    (run / "eval.json").unlink()
    assert run_further(str(run), data=rows)["mean"] == pytest.approx(whole["mean"], abs=1e-5)


@pytest.mark.slow
def test_the_loss_of_sft_is_the_negative_log_likelihood_a_token(train, tmp_path):
    run = train("objective=sft", "mixer=uniform", "specialists.train=never")
    (tmp_path / "rows").mkdir()
    for task in TASKS:
        pairs = generate(task, HELD_OUT, "test", 0)
        lines = [json.dumps({"prompt": row["prompt"], "completion": row["chosen"]}) for row in pairs]
        (tmp_path / "rows" / f"{task}.jsonl").write_text("\n".join(lines))
    for task, row in run_further(str(run), data=tmp_path / "rows")["tasks"].items():
        wanted = results(run)["tasks"][task]
        assert row["nll"] == pytest.approx(row["loss"], abs=1e-6)
        assert (row["nll"], row["start_nll"]) == pytest.approx((wanted["loss"], wanted["start_loss"]), abs=2e-6)


def test_rows_with_labels_and_splits_of_a_folder(finished, tmp_path):
    model, folder = str(shutil.copytree(finished / "model", tmp_path / "model")), tmp_path / "task"
    folder.mkdir()
    lines = [
        {"prompt": "1+1=", "completion": "2", "label": True},
        {"prompt": "1+1=", "completion": "3", "label": False},
    ]
    (folder / "train.jsonl").write_text('{"prompt": "never", "completion": "read"}\n')
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    row = run_further(model, data=folder)["tasks"]["task"]
    assert (row["rows"], row["kind"]) == (2, "unpaired")
    assert row["source"].endswith("task (test)")
    assert {"nll", "nll_other"} <= {*row}


def test_without_its_start_a_run_has_the_rest(copy, rows, monkeypatch, caplog):
    def gone(*args):
        raise MixalignError("The reference policy is missing.")

    monkeypatch.setattr("mixalign.further.model.start_of", gone)
    row = run_further(str(copy), data=rows / "reverse.jsonl")["tasks"]["reverse"]
    assert "loss" not in row
    assert "nll" in row
    assert "is left out" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("{run}", "--data", "{tmp}/gone.jsonl"), "there is no"),
        (("{tmp}/gone", "--data", "{rows}"), "There is no .*gone. Give a run folder"),
        (("{run}", "--data", "{rows}", "--split", "test"), "--split is of a run's own rows"),
        (("{run}", "--out", "{tmp}/x.json"), "--out belongs to --data or --lm-eval"),
        (("{run}", "--data", "{rows}", "--out", "{tmp}"), "is a folder"),
        (("{run}", "--data", "{tmp}/mixed.jsonl"), "holds preference rows and rows with a single answer"),
        (("{tmp}/empty", "--data", "{rows}"), "no checkpoint that can be read yet"),
        (("{run}", "--data", "{rows}", "--batch-size", "0"), "--batch-size"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_be_is_refused(arguments, says, finished, rows, tmp_path, in_process):
    (tmp_path / "empty").mkdir()
    shutil.copy(finished / "config.yaml", tmp_path / "empty")
    mixed = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "completion": "b"}]
    (tmp_path / "mixed.jsonl").write_text("\n".join(map(json.dumps, mixed)))
    before = (finished / "eval.json").read_bytes()
    code, _, err = in_process("evaluate", *(text.format(run=finished, rows=rows, tmp=tmp_path) for text in arguments))
    assert code == 1
    assert re.search(says, " ".join(err.split())), err
    assert (finished / "eval.json").read_bytes() == before
