"""A training that goes on in its folder goes on in its run of Weights & Biases, whose `init` is a stub here."""

import json
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import wandb

from tests.tiny_runs import TASKS, train_from_overrides

CHEAP = ("mixer=uniform", "specialists.train=never", "objective=sft", "save_every=1", "val_every=2", "logger=wandb")


@pytest.fixture
def begun(monkeypatch):
    """(id, resume, folder) of every run that W&B was asked for."""
    calls: list[tuple[str | None, str | None, Path]] = []

    def init(**options):
        calls.append((options["id"], options["resume"], Path(options["dir"])))
        return MagicMock()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "run", None)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    return calls


@pytest.fixture
def go(tiny, tmp_path):
    return lambda run, *more: train_from_overrides(
        tiny(*CHEAP, f"cache_dir={tmp_path / 'cache'}", *more), str(tmp_path / run)
    )


@pytest.mark.long
def test_a_run_that_goes_on_or_is_extended_is_one_run(go, begun, power_cut, tmp_path):
    with power_cut(3):
        go("run", "steps=4")
    go("run", "steps=4")
    go("run", "steps=6")
    go("other", "steps=4")
    (first, *more), folders = [call[0] for call in begun], [call[2] for call in begun]
    assert first
    assert more[:2] == [first, first]
    assert more[2] not in (None, first)
    assert {call[1] for call in begun} == {"allow"}
    assert folders == [tmp_path / "run"] * 3 + [tmp_path / "other"]
    assert json.loads((tmp_path / "run" / "wandb.json").read_text()) == {"wandb": first}


@pytest.mark.long
def test_rounds_and_proxies_are_runs_of_their_own(go, begun, tmp_path):
    go("ideal", "steps=2", "mixer=ideal", "mixer.rounds=1")
    rounds = {call[2].relative_to(tmp_path).as_posix(): call[0] for call in begun}
    assert set(rounds) == {"ideal/rounds/0", "ideal/rounds/1"}
    begun.clear()
    go("doge", "steps=4", "mixer=doge", "val_every=4")
    runs = {call[2].relative_to(tmp_path).as_posix(): call[0] for call in begun}
    assert set(runs) == {"doge/proxy", "doge"}
    assert len({*rounds.values(), *runs.values()}) == 4


@pytest.mark.long
@pytest.mark.parametrize("own", [(), ("++logger.wandb.id=mine",)])
def test_generated_answers_go_to_the_same_run(go, monkeypatch, begun, own):
    logged = MagicMock()
    init = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **options: init(**options) and logged)
    scored = [f"data.tasks.{task}.scorer=exact" for task in TASKS]
    go("run", "steps=2", "eval.generate=2", "eval.max_new_tokens=2", *scored, *own)
    assert len({call[0] for call in begun}) == 1
    (table,) = [call.args[0]["generations"] for call in logged.log.call_args_list if "generations" in call.args[0]]
    assert table.columns == ["task", "row", "prompt", "answer", "before", "after", "score_before", "score"]
    assert [row[0] for row in table.data] == [task for task in TASKS for _ in range(2)]
    assert {f"score/{TASKS[0]}"} <= {key for call in logged.summary.update.call_args_list for key in call.args[0]}
    assert logged.finish.called


@pytest.mark.long
@pytest.mark.parametrize(
    ("own", "asked"),
    [
        ("++logger.wandb.id=mine", ("mine", "allow")),
        ("++logger.wandb.version=mine", ("mine", "allow")),
        ("++logger.wandb.resume=never", (None, "never")),
    ],
)
def test_an_id_or_a_resume_of_the_users_own_wins(go, begun, tmp_path, own, asked):
    go("run", "steps=2", own)
    assert [call[:2] for call in begun] == [asked]
    assert not (tmp_path / "run" / "wandb.json").exists()
