"""The search over mixers and their settings."""

import json
from contextlib import nullcontext

import pytest

from mixalign.config.search_space import space_of
from mixalign.errors import MixalignError, Stopped
from mixalign.reporting.read.trials import TRIALS, read_search
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


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.long
def test_a_trial_without_promise_ends_early(space, tmp_path, monkeypatch):
    sweep.search(space, tmp_path / "s", trials=1)
    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda self: True)
    text = sweep.search(space, tmp_path / "s", trials=3)
    assert "ended early" in text
    ended = [trial for trial in study(tmp_path / "s").trials if trial.state.name == "PRUNED"]
    assert ended
    assert not (tmp_path / "s" / ended[0].user_attrs["folder"] / "eval.json").exists()


@pytest.mark.long
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


@pytest.mark.long
def test_a_search_without_specialists(tiny, tmp_path):
    space = space_of(
        [*tiny("specialists.train=never", f"cache_dir={tmp_path / 'cache'}"), "mixer=uniform,proportional"]
    )
    text = sweep.search(space, tmp_path / "s", trials=4)
    assert {*states(tmp_path / "s")} == {"COMPLETE"}
    assert len(read_search(tmp_path / "s").trials) == 2
    assert "by worst loss on validation rows" in " ".join(text.split())


@pytest.mark.long
def test_a_folder_in_which_a_search_is_at_work_is_refused_and_its_trial_left_alone(space, tmp_path):
    def look(step, value):
        with pytest.raises(MixalignError, match=f"{tmp_path / 's'}"):
            sweep.search(space, tmp_path / "s", trials=2)

    with watched(look):
        sweep.search(space, tmp_path / "s", trials=1)
    assert [one.state.name for one in study(tmp_path / "s").trials] == ["COMPLETE"]


@pytest.mark.long
def test_another_search_in_the_folder_is_refused(space, tiny, tmp_path):
    sweep.search(space, tmp_path / "s", trials=1)
    other = space_of([*tiny(), "mixer=uniform,ama_r"])
    with pytest.raises(MixalignError, match="holds a search of other keys or values"):
        sweep.search(other, tmp_path / "s", trials=1)


def test_a_search_in_which_nothing_can_be_trained_says_why(tiny, tmp_path):
    space = space_of([*tiny("steps=0"), "mixer=uniform,ama_s"])
    with pytest.raises(MixalignError, match="steps"):
        sweep.search(space, tmp_path / "s", trials=2)


@pytest.fixture
def pretend(monkeypatch):
    """Trains nothing: `what(settings)` gives the value of a run, or raises."""

    def put(what, monitor="eval/worst_excess", begins=True):
        def run(settings, folder, in_sweep, overrides):
            if begins:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "config.yaml").write_text(json.dumps(settings.plain))
            value = what(settings)
            name = monitor(settings) if callable(monitor) else monitor
            return {"exported": {"step": 4, "monitor": name, "value": value}}

        monkeypatch.setattr(sweep, "run", run)

    return put


def states(folder):
    return [trial.state.name for trial in study(folder).trials]


def rate_of(settings):
    return settings.plain["optimizer"]["lr"]


def fails_above(limit, error):
    def run(settings):
        if rate_of(settings) > limit:
            raise error
        return rate_of(settings)

    return run


RATES = "optimizer.lr=tag(log,interval(0.001,0.1))"


@pytest.mark.long
def test_a_trial_that_fails_is_failed_and_the_search_goes_on(tiny, tmp_path, pretend):
    pretend(fails_above(0.012, MixalignError("The loss of task `compare` is not finite at step 41.")))
    space = space_of([*tiny("mixer=uniform"), RATES])
    text = sweep.search(space, tmp_path / "s", trials=6)
    first = states(tmp_path / "s")
    assert {*first} == {"COMPLETE", "FAIL"}
    assert len(first) == 6, "failed ones count, so that a search ends"
    assert "failed: The loss of task `compare` is not finite" in " ".join(text.split())
    sweep.search(space, tmp_path / "s", trials=6)
    assert states(tmp_path / "s") == first, "nothing is tried again by the same command"
    held = json.loads((tmp_path / "s" / TRIALS).read_text())["trials"]
    assert [one["state"] for one in held] == [{"COMPLETE": "complete", "FAIL": "failed"}[name] for name in first]
    assert all(one["reason"] and one["value"] is None for one in held if one["state"] == "failed")


@pytest.mark.long
def test_rounds_fail_before_they_cost_anything_and_the_others_are_compared(tiny, tmp_path, pretend):
    pretend(rate_of)
    space = space_of([*tiny(), "mixer=uniform,ideal,ama_s"])
    text = sweep.search(space, tmp_path / "s", trials=12)
    assert "Rounds (`mixer=ideal`) keep weights that no validation chose" in " ".join(text.split())
    made = {one.params["mixer"]: one.state.name for one in study(tmp_path / "s").trials}
    assert made == {"uniform": "COMPLETE", "ama_s": "COMPLETE", "ideal": "FAIL"}
    assert len([path for path in (tmp_path / "s").iterdir() if path.is_dir()]) == 2, "ideal began nothing"
    search = read_search(tmp_path / "s")
    assert [one.state for one in search.trials] == ["complete", "complete", "failed"]
    assert search.repeats == 9


@pytest.mark.long
@pytest.mark.parametrize(
    ("value", "monitor", "reason"),
    [
        (float("nan"), "eval/worst_excess", "is nan, which does not compare"),
        (None, "eval/worst_excess", "is None, which does not compare"),
        (0.1, "eval/worst_gap", "It is judged by eval/worst_gap, and trials before it by eval/worst_excess"),
    ],
)
def test_a_value_that_does_not_compare_is_a_failed_trial(value, monitor, reason, tiny, tmp_path, pretend):
    first, monitors = iter((0.3,)), iter(("eval/worst_excess",))
    pretend(lambda settings: next(first, value), lambda settings: next(monitors, monitor))
    sweep.search(space_of([*tiny("mixer=uniform"), RATES]), tmp_path / "s", trials=2)
    search = read_search(tmp_path / "s")
    assert [one.state for one in search.trials] == ["complete", "failed"]
    assert reason in search.trials[1].reason


@pytest.mark.long
def test_a_mistake_of_the_program_ends_the_search_and_is_not_tried_for_ever(tiny, tmp_path, pretend):
    pretend(fails_above(0.0, ZeroDivisionError("division by zero")))
    space = space_of([*tiny("mixer=uniform"), RATES])
    for made in (1, 2):
        with pytest.raises(ZeroDivisionError):
            sweep.search(space, tmp_path / "s", trials=4)
        assert states(tmp_path / "s") == ["FAIL"] * made
    assert len({one.params["optimizer.lr"] for one in study(tmp_path / "s").trials}) == 2, "other values"


@pytest.mark.long
def test_a_search_in_which_everything_fails_ends_after_a_few(tiny, tmp_path, pretend):
    pretend(fails_above(0.0, MixalignError("There is no room.")), begins=False)
    space = space_of([*tiny("mixer=uniform"), RATES])
    with pytest.raises(MixalignError, match="no room"):
        sweep.search(space, tmp_path / "s", trials=20)
    assert states(tmp_path / "s") == ["FAIL"] * sweep.HOPELESS
    pretend(fails_above(0.0, MixalignError("The loss is not finite.")))  # by chance, of values that are all too large
    with pytest.raises(MixalignError, match=r"could be judged\. The loss is not finite"):
        sweep.search(space, tmp_path / "t", trials=sweep.HOPELESS + 1)
    assert states(tmp_path / "t") == ["FAIL"] * (sweep.HOPELESS + 1)
    only_rounds = space_of([*tiny("mixer=ideal"), "mixer.m=0.1,0.15"])
    with pytest.raises(MixalignError, match=r"No trial of the search in .* could be judged. Rounds"):
        sweep.search(only_rounds, tmp_path / "ideal", trials=3)


def test_values_of_a_pruned_trial_are_pruned_again(tiny, tmp_path, pretend, monkeypatch):
    def prune(settings):
        if settings.plain["mixer"]["name"] == "ama_s":
            raise optuna.TrialPruned("0.5 at step 2, above the median of the others")
        return 0.1

    pretend(prune)
    sweep.search(space_of([*tiny(), "mixer=uniform,ama_s"]), tmp_path / "s", trials=8)
    by_mixer = {}
    for one in study(tmp_path / "s").trials:
        by_mixer.setdefault(one.params["mixer"], set()).add(one.state.name)
    assert by_mixer == {"uniform": {"COMPLETE"}, "ama_s": {"PRUNED"}}


def test_a_validation_that_is_no_number_is_not_called_above_the_median(tiny, tmp_path, pretend, monkeypatch):
    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda self: True)
    looks = []
    monkeypatch.setattr(sweep, "watched", lambda look: nullcontext(looks.append(look)))
    pretend(lambda settings: looks[-1](4, float("nan")))
    sweep.search(space_of([*tiny("mixer=uniform"), RATES]), tmp_path / "s", trials=1)
    (trial,) = read_search(tmp_path / "s").trials
    assert (trial.state, trial.reason) == ("pruned", "nan at step 4, which does not compare")


def test_the_command(tiny, tmp_path, monkeypatch, capsys):
    given = ["--trials", "2", *tiny(), "mixer=uniform,proportional", f"run_dir={tmp_path / 's'}"]
    monkeypatch.setattr("sys.argv", ["mixalign", *given])
    sweep.main()
    assert "different trials, by worst excess on validation rows" in capsys.readouterr().out
