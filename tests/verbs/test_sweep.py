"""The search over mixers and their settings."""

import json

import pytest

from mixalign.config.search_space import space_of
from mixalign.errors import MixalignError, Stopped
from mixalign.training.callbacks.watched import watched
from mixalign.verbs import sweep

optuna = pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'mixalign[search]'")


@pytest.fixture
def space(tiny):
    """Two mixers, of which one has a step size; validations every step."""
    return space_of([*tiny("val_every=1"), "mixer=uniform,ama_s", "mixer.eta=interval(0.1,1.0)"])


def study(folder):
    return optuna.load_study(study_name="mixalign", storage=f"sqlite:///{folder / sweep.FILE}")


def value(folder):
    return json.loads((folder / "eval.json").read_text())["exported"]["value"]


def test_trials_are_runs_judged_on_validation_rows(space, tmp_path):
    text = sweep.search(space, tmp_path / "s", trials=4, prune=False)
    done = study(tmp_path / "s").trials
    assert len(done) == 4
    for trial in done:
        assert trial.state.name == "COMPLETE"
        if "folder" in trial.user_attrs:
            folder = tmp_path / "s" / trial.user_attrs["folder"]
            assert trial.value == pytest.approx(value(folder))
            assert trial.user_attrs["folder"] in text
    best = min((t for t in done if "folder" in t.user_attrs), key=lambda t: t.value)
    assert f"best: {tmp_path / 's' / best.user_attrs['folder']}" in " ".join(text.split())


def test_the_same_values_are_not_trained_twice(tiny, tmp_path):
    space = space_of([*tiny(), "mixer=uniform,proportional"])
    sweep.search(space, tmp_path / "s", trials=5)
    assert len([path for path in (tmp_path / "s").iterdir() if path.is_dir()]) <= 2
    assert len(study(tmp_path / "s").trials) == 5


def test_the_same_command_goes_on(space, tmp_path):
    sweep.search(space, tmp_path / "s", trials=1)
    before = (tmp_path / "s" / "0" / "eval.json").stat().st_mtime_ns
    sweep.search(space, tmp_path / "s", trials=2)
    assert (tmp_path / "s" / "0" / "eval.json").stat().st_mtime_ns == before
    assert len(study(tmp_path / "s").trials) == 2


def test_a_trial_that_was_stopped_is_gone_on_with_in_its_folder(space, tmp_path):
    def stop(step, value):
        if step == 3:
            raise Stopped("power cut", 143)

    with watched(stop), pytest.raises(Stopped) as stopped:
        sweep.search(space, tmp_path / "s", trials=1)
    assert stopped.value.text == "power cut"
    before = study(tmp_path / "s").trials[0].params
    sweep.search(space, tmp_path / "s", trials=1)
    after = study(tmp_path / "s").trials
    assert [trial.state.name for trial in after] == ["FAIL", "COMPLETE"]
    assert after[1].params == before
    assert after[1].user_attrs["folder"] == "0"
    assert [path.name for path in (tmp_path / "s").iterdir() if path.is_dir()] == ["0"]


def test_a_trial_without_promise_ends_early(space, tmp_path, monkeypatch):
    sweep.search(space, tmp_path / "s", trials=1)
    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda self: True)
    text = sweep.search(space, tmp_path / "s", trials=3)
    assert "ended early" in text
    ended = [trial for trial in study(tmp_path / "s").trials if trial.state.name == "PRUNED"]
    assert ended
    assert not (tmp_path / "s" / ended[0].user_attrs["folder"] / "eval.json").exists()


def test_all_trials_count_excess_over_the_first_one_s_specialists(tiny, tmp_path):
    """Specialists follow `optimizer.lr`, and values over others would not compare."""
    space = space_of([*tiny("mixer=ama_s"), "optimizer.lr=0.001,0.002"])
    sweep.search(space, tmp_path / "s", trials=4)
    losses = {
        json.dumps({task: row["specialist_loss"] for task, row in json.loads(path.read_text())["tasks"].items()})
        for path in (tmp_path / "s").glob("*/eval.json")
    }
    assert len(losses) == 1
    assert len(list((tmp_path / "s").glob("*/eval.json"))) == 2


def test_another_search_in_the_folder_is_refused(space, tiny, tmp_path):
    sweep.search(space, tmp_path / "s", trials=1)
    other = space_of([*tiny(), "mixer=uniform,ama_r"])
    with pytest.raises(MixalignError, match="holds a search of other keys or values"):
        sweep.search(other, tmp_path / "s", trials=1)


def test_a_search_in_which_nothing_can_be_trained_says_why(tiny, tmp_path):
    space = space_of([*tiny("steps=0"), "mixer=uniform,ama_s"])
    with pytest.raises(MixalignError, match="steps"):
        sweep.search(space, tmp_path / "s", trials=2)


def test_the_command(tiny, tmp_path, monkeypatch, capsys):
    given = ["--trials", "2", *tiny(), "mixer=uniform,proportional", f"run_dir={tmp_path / 's'}"]
    monkeypatch.setattr("sys.argv", ["mixalign", *given])
    sweep.main()
    assert "different trials, by worst excess on validation rows" in capsys.readouterr().out
