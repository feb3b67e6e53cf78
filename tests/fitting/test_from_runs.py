"""`mixalign fit-mixture`: from run folders to weights, and from specialists to weights."""

import csv
import json
import re
import sys
from functools import partial

import pytest
import torch
import yaml

from mixalign.config.compose import compose_config, compose_settings
from mixalign.errors import MixalignError
from mixalign.fitting.from_specialists import fit_from_specialists
from mixalign.fitting.regmix import RegMixSettings, fit_regmix
from mixalign.fitting.report import save_mixture
from mixalign.fitting.tried_runs import may_differ, tried_runs
from tests.tiny_runs import train_from_overrides

MIXTURES = [[a, b, 1 - a - b] for a in (0.1, 0.3, 0.5) for b in (0.1, 0.25, 0.4)]


def bowls(weights):
    """Each task's loss falls with its own weight, and less and less: `1 + number * (1 - weight)^2`."""
    return [1 + (k + 1) * (1 - weight) ** 2 for k, weight in enumerate(weights)]


def write_run(folder, weights, losses, tasks=("math", "code", "chat"), *, export="last", moved=0.0, **settings):
    """A finished run on a fixed mixture; it ends with these validation losses, and was 1 nat higher before."""
    folder.mkdir(parents=True)
    settings = {
        "seed": 0,
        "export": export,
        "mixer": {"name": "fixed", "weights": weights},
        "objective": {"name": "sft"},
    } | settings
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    scores = {task: {"rows": 9, "loss": 77.0} for task in tasks}  # of the test rows, which must not be read
    (folder / "eval.json").write_text(
        json.dumps({"mixer": "fixed", "seed": settings["seed"], "split": "test", "tasks": scores})
    )
    steps = [
        {"step": 1, "sample": weights},
        {"step": 2, "sample": [w + moved * (0.5 - n) for n, w in enumerate(weights)]},
    ]
    (folder / "mix.jsonl").write_text("".join(json.dumps({**line, "loss": None}) + "\n" for line in steps))
    (folder / "mixture.json").write_text(json.dumps({"tasks": list(tasks)}))
    names = [f"eval_loss/{task}" for task in tasks]
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "eval/worst_loss", *names])
        writer.writeheader()
        for step, above in ((10, 1.0), (20, 0.0)):
            values = [loss + above for loss in losses]
            worst = -max(values) if export == "best" else max(values)  # the kept step is then the first one
            writer.writerow({"step": step, "eval/worst_loss": worst, **dict(zip(names, values, strict=True))})
    return folder


@pytest.fixture
def tried(tmp_path):
    """The folder of nine runs that follow the law of `bowls`."""
    for number, weights in enumerate(MIXTURES):
        write_run(tmp_path / "tried" / str(number), weights, bowls(weights))
    return tmp_path / "tried"


@pytest.fixture
def call(in_process):
    """Runs `mixalign fit-mixture` in this process; gives the exit code, stdout and stderr."""
    return partial(in_process, "fit-mixture")


def fit(tried, **settings):
    runs = tried_runs([tried])
    return fit_regmix(runs.tasks, runs.weight_NK, runs.loss_NK, RegMixSettings(**settings))


def predicted(tried, **settings):
    """The fitted weights, after a check that losses are predicted as the law has them."""
    fitted = fit(tried, candidates=20_000, top=64, **settings)
    assert fitted.loss_K.tolist() == pytest.approx(bowls(fitted.weight_K.tolist()), abs=1e-3)
    return fitted


class TestRuns:
    def test_mean_worst_and_one_task(self, tried):
        """By Lagrange, k (1 - w_k) is the same for all in the mean: w = 0, .45, .64; w_1 is at its lowest, .1."""
        assert predicted(tried).weight_K.tolist() == pytest.approx([0.1, 0.36, 0.54], abs=0.08)
        worst = predicted(tried, target="worst")
        assert worst.target == pytest.approx(float(worst.loss_K.max()))
        assert worst.target < min(max(bowls(weights)) for weights in MIXTURES) + 1e-3
        assert predicted(tried, target="math").weight_K[0] > 0.48
        assert float(worst.of_target.r2_Q) > 0.99

    def test_the_step_that_was_kept_counts(self, tmp_path):
        for number, weights in enumerate(MIXTURES[:4]):
            write_run(tmp_path / "best" / str(number), weights, bowls(weights), export="best")
        found = tried_runs([tmp_path / "best"])
        assert found.loss_NK.numpy() == pytest.approx(torch.tensor([bowls(w) for w in MIXTURES[:4]]).numpy() + 1)

    def test_of_a_mean_of_weights_its_own_validation_counts(self, tmp_path):
        """metrics.csv has the losses of the last weights."""
        for number, weights in enumerate(MIXTURES[:4]):
            folder = write_run(tmp_path / "mean" / str(number), weights, [9, 9, 9], export="averaged")
            seen = {"loss": dict(zip(("math", "code", "chat"), bowls(weights), strict=True))}
            kept = {"exported": {"step": 20, "monitor": None, "value": None, "averaged": [15, 20], "validation": seen}}
            (folder / "eval.json").write_text(json.dumps(json.loads((folder / "eval.json").read_text()) | kept))
        found = tried_runs([tmp_path / "mean"])
        assert found.loss_NK.numpy() == pytest.approx(torch.tensor([bowls(w) for w in MIXTURES[:4]]).numpy())

    def test_excess_over_several_sets_of_specialists_is_refused_by_name(self, tmp_path):
        """Runs of different seeds go into one fit, so they too must have the same."""
        for number, weights in enumerate(MIXTURES[:4]):
            folder = write_run(tmp_path / "own" / str(number), weights, bowls(weights), seed=number)
            rate = 1e-3 if number else 1e-7
            recipes = {task: {"fit": {"lr": rate}} for task in ("math", "code", "chat")}
            (folder / "specialists.json").write_text(json.dumps(recipes))
            scores = json.loads((folder / "eval.json").read_text())
            over = {"reference": "r", "specialists": dict.fromkeys(recipes, str(rate))}
            scores |= {"excess_over": over, "worst": {"excess": {"task": "math", "value": 0.1}}}
            (folder / "eval.json").write_text(json.dumps(scores))
        tried_runs([tmp_path / "own"])  # losses compare
        with pytest.raises(MixalignError, match=r"different specialists.*specialists\.lr \(1e-07, 0\.001\)"):
            tried_runs([tmp_path / "own"], "excess")

    def test_tasks_in_another_order_are_put_in_order(self, tried):
        first = tried_runs([tried])
        write_run(tried / "turned", [0.2, 0.1, 0.7], [5, 4, 6], ("code", "math", "chat"))
        found = tried_runs([tried])
        assert found.tasks == first.tasks == ("math", "code", "chat")
        assert found.weight_NK[-1].tolist() == [0.1, 0.2, 0.7]
        assert found.loss_NK[-1].tolist() == [4, 5, 6]

    def test_what_a_run_cannot_tell_is_said(self, tried):
        write_run(tried / "x_moved", [0.2, 0.2, 0.6], [1, 1, 1], moved=0.1, seed=1)
        (write_run(tried / "x_open", [0.2, 0.2, 0.6], [1, 1, 1], seed=2) / "eval.json").unlink()
        write_run(tried / "x_short", [0.2, 0.2, 0.6], [1, 1, 1], seed=3, steps=5, run_dir="elsewhere")
        found = tried_runs([tried])
        assert len(found.names) == 10
        moved, unfinished, differ = found.notes
        assert moved == "left out: x_moved (its mixer, fixed, moved the mixture)"
        assert unfinished.startswith("left out: x_open (no eval.json")
        assert differ == "warning: the runs differ in steps too, which the fit takes for the mixture's doing"

    @pytest.mark.parametrize(
        ("key", "may"),
        [
            *(("mixer.draw", True), ("specialists.steps", True), ("run_dir", True), ("engine.compile", True)),
            *(("trainer.devices", True), ("steps", False), ("data.tasks.math.path", False)),
            ("trainer.precision", False),
        ],
    )
    def test_runs_may_differ_in_what_leaves_the_weights_alone(self, key, may):
        assert may_differ(key) == may

    def test_trees_where_they_are_installed(self, tried):
        pytest.importorskip("lightgbm")
        fitted = fit(tried, regression="lightgbm", target="math", candidates=1000)
        assert fitted.weight_K[0] > 0.4


class TestTerminal:
    def test_the_table_the_file_and_the_command(self, call, tried, tmp_path):
        code, out, err = call(tried, "--target", "worst", "--out", tmp_path / "mine.yaml")
        assert (code, err) == (0, "")
        assert out.startswith("RegMix: lowest worst loss (nats), from 9 runs\n")
        assert "best run: " in out
        assert "warning" not in out
        written = yaml.safe_load((tmp_path / "mine.yaml").read_text())
        assert sum(written["weights"].values()) == pytest.approx(1, abs=1e-3)
        assert written["predicted_target"] == pytest.approx(max(bowls(written["weights"].values())), abs=0.01)
        command = out.splitlines()[-1]
        assert command.startswith("mixalign train mixer=fixed 'mixer.weights={math: ")
        config = compose_config(re.findall(r"(?<= )'?([^' ]+=[^']+)'?", command.replace(" 'mixer.w", "' 'mixer.w")))
        assert dict(config.mixer.weights) == written["weights"]

    def test_few_runs_and_a_fit_of_nothing_are_said(self, call, tmp_path):
        for number, weights in enumerate(MIXTURES[:5]):
            write_run(tmp_path / str(number), weights, [[2, 1, 3, 1, 2][number]] * 3)
        code, out, _ = call(tmp_path)
        assert code == 0
        assert "warning: 5 runs are few for 3 tasks; have 9 or more." in out
        assert "warning: the fit is no better than the mean of the runs (R2 -" in out

    def test_the_best_run_is_named_when_nothing_better_is_predicted(self, call, tried):
        write_run(tried / "lucky", [0.2, 0.2, 0.6], [0.5, 0.5, 0.5])
        out = call(tried, "--regression", "linear", "--target", "chat")[1]
        assert "which is safer:" in " ".join(out.split())
        assert "'mixer.weights={math: 0.2, code: 0.2, chat: 0.6}'" in out.splitlines()  # whole, for copying
        assert "best run: lucky" in out

    def test_names_that_the_command_line_would_misread_are_left_out(self, tmp_path, capsys):
        save_mixture(["true", "b c"], torch.tensor([0.25, 0.75]), {}, tmp_path / "x.yaml")
        assert capsys.readouterr().out.endswith("mixalign train mixer=fixed 'mixer.weights=[0.25, 0.75]'\n")
        assert yaml.safe_load((tmp_path / "x.yaml").read_text()) == {"weights": {"true": 0.25, "b c": 0.75}}


def refused(call, *arguments):
    code, out, err = call(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    return err


class TestBadInput:
    def test_no_runs(self, call, tmp_path):
        assert "Which runs?" in refused(call)
        assert f"No run found in `{tmp_path}`" in refused(call, tmp_path)
        assert "`data=local` is no run. Configuration keys are for --method mixmin" in refused(call, "data=local")
        assert list(tmp_path.iterdir()) == []

    def test_too_few_mixtures(self, call, tmp_path):
        for seed in range(4):  # of two mixtures
            write_run(tmp_path / str(seed), MIXTURES[seed % 2], [1, 2, 3], seed=seed)
        said = refused(call, tmp_path)
        assert (
            "Different mixtures in the runs: 2, but a fit needs at least 3, and rather 9 for 3 tasks. Runs are made by"
            in said
        )

    def test_only_mixtures_that_moved(self, call, tmp_path):
        write_run(tmp_path / "a", MIXTURES[0], [1, 2, 3], moved=0.1)
        assert "No run has a mixture that stayed as it was; left out: a (its mixer, fixed" in refused(call, tmp_path)

    def test_other_tasks(self, call, tried):
        write_run(tried / "x", [0.5, 0.5], [1, 2], ("math", "law"))
        assert "The runs have different tasks: 0 has math, code, chat, but x has math, law." in refused(call, tried)

    def test_other_objectives(self, call, tried):
        write_run(tried / "x", MIXTURES[0], [1, 2, 3], objective={"name": "dpo"})
        assert "0 has sft, but x has dpo. Give runs of the same objective." in refused(call, tried)

    def test_options_that_cannot_be(self, call, tried, monkeypatch):
        assert "The target is `maths`. Did you mean `math`?" in refused(call, tried, "--target", "maths")
        assert "has no validation excess of task `math`" in refused(call, tried, "--quantity", "excess")
        assert "`top` is 128, but there are only 9 candidates" in refused(call, tried, "--candidates", 9)
        assert "`--seed` is -1, but must be a whole number from 0 on" in refused(call, tried, "--seed", -1)
        assert "--target is of regmix" in refused(call, "--method", "mixmin", "--target", "worst")
        monkeypatch.setitem(sys.modules, "lightgbm", None)
        assert "pip install 'mixalign[regmix]'" in refused(call, tried, "--regression", "lightgbm")
        assert not (tried / "mixture.yaml").exists()


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """A folder of four tiny runs on random mixtures."""
    folder = tmp_path_factory.mktemp("tried")
    for draw in range(4):
        more = ("mixer=random_mixture", f"mixer.draw={draw}", "objective=sft", "specialists.train=never")
        train_from_overrides(tiny(*more), str(folder / f"{draw}_random"))
    return folder


@pytest.mark.long
def test_from_random_mixtures_to_a_run_on_fitted_weights(trained, call, train):
    code, out, err = call(trained, "--candidates", 2000)
    assert (code, err) == (0, ""), err
    assert "from 4 runs" in out
    assert "warning: 4 runs are few for 3 tasks" in out
    (weights,) = re.findall(r"mixer=fixed '(mixer.weights=.*)'", out)
    run = train("mixer=fixed", weights, "objective=sft", "specialists.train=never")
    written = yaml.safe_load((trained / "mixture.yaml").read_text())
    used = json.loads((run / "mixture.json").read_text())
    assert used["sample_final"] == pytest.approx([written["weights"][task] for task in used["tasks"]], abs=1e-3)


@pytest.mark.long
def test_mixmin_from_specialists_to_weights(tiny, tmp_path, capsys):
    settings = tiny("objective=sft", "data.target=[helpful, reverse]")
    fit_from_specialists(compose_settings(settings), str(tmp_path / "mine.yaml"))
    out = capsys.readouterr().out
    assert out.startswith("MixMin: cross-entropy on helpful, reverse (nats a token)\n")
    assert "mixalign train mixer=fixed 'mixer.weights={helpful: " in out
    written = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    loss = written["loss"]
    assert sum(written["weights"].values()) == pytest.approx(1, abs=1e-3)
    others = [loss["uniform"], loss["proportional"], *written["specialists"].values()]
    assert loss["these weights"] <= min(others) + written["gap"]
    assert loss["held out"] >= loss["these weights"] - 1e-6
    assert written["gap"] < 1e-6


def test_mixmin_refuses_preferences_and_missing_specialists(tiny, tmp_path):
    with pytest.raises(MixalignError, match="`objective=dpo` has no cross-entropy of them"):
        fit_from_specialists(compose_settings(tiny()))
    settings = tiny("objective=sft", "specialists.train=never", f"cache_dir={tmp_path}")
    with pytest.raises(MixalignError, match=r"needs specialists, but `specialists\.train=never`"):
        fit_from_specialists(compose_settings(settings))
