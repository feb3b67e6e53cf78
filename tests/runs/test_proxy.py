"""Rules that train a proxy: what each of the trainings is made of, and that none is made twice."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mixalign.config.compose import compose_settings
from mixalign.data.batches.sampler import MixtureSampler
from mixalign.frozen.baseline import attach_baseline
from mixalign.frozen.scored import scored
from mixalign.jobs.job import prepare
from mixalign.runs import proxy
from mixalign.training.callbacks.task_log import TaskLog
from mixalign.verbs import plan
from tests.tiny_runs import train_from_overrides

TASKS = ["helpful", "reverse", "compare"]
# eta: for four steps to move the weights; always: so that the run is judged by specialists, as in a sweep
DOREMI = ("mixer=doremi", "mixer.eta=100", "specialists.train=always", "val_every=2")
FILES = ("mix.jsonl", "mixture.json", "eval.json", "metrics.csv", "model/model.safetensors")


def read(path: Path):
    return json.loads(path.read_text())


def history(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "mix.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def run(tiny, finished, tmp_path_factory):
    """The folder of a run of DoReMi that nobody may change; `finished` has trained its specialists."""
    folder = tmp_path_factory.mktemp("doremi") / "run"
    train_from_overrides(tiny(*DOREMI), str(folder))
    return folder


def test_the_final_mixture_is_the_mean_of_the_proxys_weights(run):
    steps = [line["loss"] for line in history(run / "proxy")]
    mean = np.mean(steps, axis=0)
    assert steps[0] == pytest.approx([1 / 3] * 3)
    assert max(mean) > 0.4, "a mean that has not moved shows nothing"
    assert all(line["sample"] == pytest.approx([1 / 3] * 3) for line in history(run / "proxy"))
    for line in history(run):
        assert line["sample"] == pytest.approx(mean, abs=1e-7)
        assert line["loss"] is None
    result = read(run / "eval.json")
    assert result["mixer"] == "doremi"
    assert result["proxy"]["folder"] == "proxy"
    assert list(result["proxy"]["weights"]) == TASKS
    assert list(result["proxy"]["weights"].values()) == read(run / "proxy" / "mixture.json")["loss_mean"]


def test_the_final_model_is_that_of_a_fixed_mixture_and_judged_by_the_specialists(run, train):
    """Nothing of the proxy but its mean reaches the final training: not its weights, not the baseline's losses."""
    shares = list(read(run / "eval.json")["proxy"]["weights"].values())
    fixed = train("mixer=schedule", f"mixer.phases=[{{weights: {shares}}}]", "val_every=2")
    for key in ("tasks", "worst", "mean"):
        assert read(fixed / "eval.json")[key] == read(run / "eval.json")[key]
    assert {"excess", "specialist_loss"} <= {*read(run / "eval.json")["mean"]}
    assert (fixed / "mixture.json").read_bytes() == (run / "mixture.json").read_bytes()


def test_the_baseline_is_a_model_of_all_tasks_on_its_own_mixture(run, cache, train):
    recipes = {place: read(place / "recipe.json") for place in (cache / "baseline").iterdir()}
    (place,) = (place for place, recipe in recipes.items() if recipe["fit"]["steps"] == 4)  # others are of other tests
    assert recipes[place]["mixture"] == pytest.approx([1 / 3] * 3)
    theirs = weights(train("mixer=uniform", "export=last", "specialists.train=never"))
    assert all(torch.equal(value, theirs[name]) for name, value in weights(place).items())


def test_the_excess_of_the_proxy_is_over_the_baseline(run, tiny):
    """At the first step a pair loses log 2, so each task's excess is the mean of max(log 2 - baseline loss, 0)."""
    settings = compose_settings(tiny(*DOREMI))
    job, reference = scored(prepare(settings))
    assert all("specialist_loss" in table.columns for _, _, table in job.all_datasets)
    own = attach_baseline(job, reference, settings.mixer)
    sampler = MixtureSampler([40] * 3, 6, "stratified", 0)
    drawn = sampler.draw()
    found = []
    for number in range(3):
        loss_N = own.data["train"][number].columns["specialist_loss"]
        gap_M = np.log(2) - loss_N[drawn.row_B[drawn.task_B == number]]
        found.append(np.maximum(gap_M, 0).mean())
        assert not np.array_equal(loss_N, job.data["train"][number].columns["specialist_loss"])
    assert history(run / "proxy")[0]["excess"] == pytest.approx(found, abs=1e-6)
    for split in ("validation", "test"):
        assert own.data[split] is job.data[split]


def test_a_run_that_was_interrupted_goes_on(run, tiny, tmp_path, monkeypatch):
    """Stopped at step 3 of the proxy, behind the checkpoint of step 2, and once more there in the final training."""
    folder, trained = tmp_path / "again", []
    real_train, real_log = proxy.train_generalist, TaskLog.on_train_batch_end

    def train(run):
        trained.append((run.folder.name, run.resume and run.resume.parent.parent))
        return real_train(run)

    def log(self, trainer, *rest):
        real_log(self, trainer, *rest)
        if len(trained) in (1, 3) and trainer.global_step == 3:
            raise RuntimeError("power cut")

    monkeypatch.setattr(proxy, "train_generalist", train)
    monkeypatch.setattr(TaskLog, "on_train_batch_end", log)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="power cut"):
            train_from_overrides(tiny(*DOREMI), str(folder))
    train_from_overrides(tiny(*DOREMI), str(folder))
    place = folder / "proxy"
    assert trained == [("proxy", None), ("proxy", place), ("again", None), ("again", folder)]
    for name in (*FILES, *(f"proxy/{name}" for name in FILES)):
        assert (folder / name).read_bytes() == (run / name).read_bytes(), name


def test_the_proxy_itself_may_be_the_model(run, train):
    """With `final=false` there is one training, which is the proxy's, and the baseline is there already."""
    alone = train(*DOREMI, "mixer.final=false", "export=last")
    assert not (alone / "proxy").exists()
    assert (alone / "mix.jsonl").read_bytes() == (run / "proxy" / "mix.jsonl").read_bytes()
    assert read(alone / "eval.json") == read(run / "proxy" / "eval.json")


def test_sft_without_specialists_and_with_a_cap_of_epochs(train, tmp_path):
    """The cap holds in the final training, which draws rows by the weights: one or two of compare, then none."""
    own, few = tmp_path / "cache", "{generator: compare, rows: 8, validation_rows: 8, test_rows: 8}"
    more = ("objective=sft", "mixer.baseline={helpful: 2, reverse: 1}", "mixer.wrap.max_epochs=0.125")
    folder = train("mixer=doremi", "specialists.train=never", f"cache_dir={own}", f"data.tasks.compare={few}", *more)
    result = read(folder / "eval.json")
    assert "excess" not in result["mean"]
    lines = history(folder)
    assert lines[0]["sample"] == pytest.approx(list(result["proxy"]["weights"].values()), abs=1e-7)
    assert 0 in [line["sample"][2] for line in lines]
    (recipe,) = (own / "baseline").glob("*/recipe.json")
    assert read(recipe)["mixture"] == pytest.approx([2 / 3, 1 / 3, 0])
    assert not (own / "specialists").exists()


@pytest.mark.long
@pytest.mark.parametrize("mixer", ["ama_s", "ama_e"])
def test_automixalign_over_a_baseline_needs_no_specialists(mixer, train, tmp_path):
    """The baseline is trained once, on uniform sampling, and what the rule reads is excess over its losses."""
    own = tmp_path / "cache"
    folder = train(f"mixer={mixer}", "mixer.over=baseline", "specialists.train=auto", f"cache_dir={own}")
    assert not (own / "specialists").exists()
    (recipe,) = (own / "baseline").glob("*/recipe.json")
    assert read(recipe)["mixture"] == pytest.approx([1 / 3] * 3)
    assert [*read(folder / "cost.json")["leans_on"]] == ["baseline"]
    assert "excess" not in read(folder / "eval.json")["mean"], "there are no specialists to judge it by"
    lines = history(folder)
    assert lines[0]["sample"] == pytest.approx([1 / 3] * 3)
    seen = [x for line in lines for x in line["excess"] if x is not None]
    assert min(seen) >= 0 < max(seen)
    assert len({tuple(line["sample"]) for line in lines}) == len(lines), "it moves"


def test_what_cannot_be_is_refused(tiny, refuse, tmp_path):
    (tmp_path / "last.ckpt").touch()
    assert "goes on by itself" in refuse(tiny(*DOREMI, f"resume={tmp_path}/last.ckpt"))
    assert "names `compar`" in refuse(tiny(*DOREMI, "mixer.baseline={compar: 1}"))
    assert "has 2 weights, but there are 3 tasks" in refuse(tiny(*DOREMI, "mixer.baseline=[1, 2]"))


@pytest.mark.parametrize(
    ("final", "stages"), [(True, ["baseline", "proxy", "generalist"]), (False, ["baseline", "generalist"])]
)
def test_the_plan_names_every_training(tiny, capsys, final, stages):
    plan.run(compose_settings(tiny("mixer=doremi", f"mixer.final={final}")))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith(": 4 steps x 6 rows")]
    assert lines == [f"{stage}: 4 steps x 6 rows" for stage in stages]
