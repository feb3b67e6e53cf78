"""Which step a run exports, and by what: fixed when it begins, whatever becomes of its folder and its cache."""

import json
import shutil

import pytest

from mixalign.errors import MixalignError
from mixalign.runs.summary import eval_table
from tests.tiny_runs import train_from_overrides

FILES = ("mix.jsonl", "mixture.json", "eval.json", "metrics.csv", "identity.json", "model/model.safetensors")


@pytest.fixture
def train(tiny, tmp_path):
    """Trains uniformly with a cache of its own, without specialists unless they are there; gives the folder."""

    def go(run, *more):
        train_from_overrides(
            tiny("mixer=uniform", "val_every=1", f"cache_dir={tmp_path / 'cache'}", *more), str(tmp_path / run)
        )
        return tmp_path / run

    return go


def read(run):
    return json.loads((run / "eval.json").read_text())


def same(run, other):
    for name in {*FILES} - {"identity.json"}:
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    first, second = (json.loads((folder / "identity.json").read_text()) for folder in (run, other))
    for found in (first, second):
        found["origin"].pop("overrides")  # of the command
    assert first == second


@pytest.mark.long
def test_the_cache_does_not_change_by_what_the_best_step_is_chosen(train, tmp_path, power_cut):
    calm = train("calm")
    assert read(calm)["exported"]["monitor"] == "eval/worst_loss"
    for run in ("run", "never"):
        with power_cut(3):
            train(run, *(["specialists.train=never"] if run == "never" else []))
    with_them = train("with", "specialists.train=always")
    assert read(with_them)["exported"]["monitor"] == "eval/worst_excess"
    same(train("run"), calm)  # though there are specialists now
    assert "excess" not in read(train("never", "specialists.train=never"))["worst"]
    specialists = tmp_path / "cache" / "specialists"
    for run, policy in (("other", "auto"), ("refused", "never")):
        with power_cut(3):
            train(run, f"specialists.train={policy}")
    shutil.rmtree(specialists)
    with pytest.raises(MixalignError, match=r"refused began with specialists .* Restore them, or give another"):
        train("refused", "specialists.train=never")
    assert not specialists.exists()
    same(train("other"), with_them)  # though there were none any more


@pytest.mark.long
def test_a_missing_best_checkpoint_is_said_first_and_export_last_goes_on(train, tmp_path, power_cut):
    with power_cut(3):
        train("run")
    (best,) = (tmp_path / "run" / "checkpoints").glob("step*.ckpt")
    best.unlink()
    before = (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes()
    with pytest.raises(MixalignError, match=rf"{best.name} by `eval/worst_loss`, is missing. .* set `export=last`"):
        train("run")
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes() == before
    run = train("run", "export=last")
    assert read(run)["exported"] == {"step": 4, "monitor": None, "value": None}
    assert eval_table(read(run)).endswith("kept: step 4 of 4, the last one")
    with pytest.raises(MixalignError, match=r"other settings \(average_last: .*; export: got 'last', wanted 'best'\)"):
        train("run")


@pytest.mark.long
def test_a_folder_that_was_moved_exports_the_same_step(train, tmp_path, power_cut):
    overrides = ("optimizer.lr=1", "optimizer.warmup_steps=0", "average_last=null")
    calm = train("calm", *overrides)
    found = read(calm)["exported"]
    table = f"kept: step {found['step']} of 4, with the lowest worst loss on validation rows: {found['value']:.3f}"
    assert " ".join(eval_table(read(calm)).split()).endswith(table)
    assert found["step"] < 3, "the best step is after the move, so the test would show nothing"
    with power_cut(3):
        train("run", *overrides)
    (tmp_path / "run").rename(tmp_path / "moved")
    same(train("moved", *overrides), calm)


@pytest.mark.long
def test_a_monitor_that_cannot_tell_steps_apart_says_so(train, caplog):
    assert read(train("still", "optimizer.lr=1e-30"))["exported"]["step"] == 1
    assert "By eval/worst_loss the last weights are as good as those of step 1, the first to reach" in caplog.text
    caplog.clear()
    assert read(train("moves"))["exported"]["step"] == 4
    assert "as good as" not in caplog.text
