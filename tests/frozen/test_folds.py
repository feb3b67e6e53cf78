"""Specialists that score rows which they have not seen, and specialists whose best step is kept."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from mixalign.config.compose import compose_settings
from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.fitting.from_specialists import fit_from_specialists
from mixalign.frozen.folds import fold_of, inside, outside
from mixalign.frozen.scored import scored
from mixalign.frozen.specialists import find_folds, find_specialists
from mixalign.jobs.job import prepare
from mixalign.objectives.frozen_losses import frozen_losses
from mixalign.planning.plan import make_plan
from mixalign.runs.check import check_run
from mixalign.verbs import specialists
from tests.tiny_runs import TASKS


def table(ids: list[int]) -> TaskDataset:
    row = {"prompt": np.array([1]), "completions": [np.array([2, 3])], "supervised": [np.array([True, True])]}
    dataset = TaskDataset.from_rows("a", [row | {"row_id": number} for number in ids], 1)
    dataset.attach("weight", np.arange(1, len(ids) + 1).astype(np.float32))
    return dataset


def test_every_row_is_scored_by_a_specialist_that_has_not_seen_it_or_its_like():
    rows = table([7, 3, 9, 3, 5, 1, 7])
    fold_N = fold_of(rows, 2)
    assert fold_N[0] == fold_N[6]
    assert fold_N[1] == fold_N[3]  # the same row twice
    assert sorted(np.bincount([fold_N[i] for i in (0, 1, 2, 4, 5)])) == [2, 3]
    for fold in (0, 1):
        seen, held = outside(rows, 2, fold), inside(rows, 2, fold)
        assert not {*seen.row_id_N.tolist()} & {*held.row_id_N.tolist()}
        assert len(seen) + len(held) == len(rows)
        assert held.columns["weight"].tolist() == (np.flatnonzero(fold_N == fold) + 1).tolist()
        assert held.num_tokens_NS.tolist() == [[2]] * len(held)


def test_a_fold_is_a_matter_of_the_row_and_not_of_the_order():
    by_row = dict(zip([7, 3, 9, 5], fold_of(table([7, 3, 9, 5]), 3), strict=True))
    assert dict(zip([5, 9, 3, 7], fold_of(table([5, 9, 3, 7]), 3), strict=True)) == by_row


def test_more_folds_than_rows_are_refused_by_name():
    with pytest.raises(MixalignError, match=r"`specialists\.folds` is 3, but task `a` has 2 different training row"):
        fold_of(table([1, 1, 2]), 3)


def test_rows_of_one_prompt_share_a_fold():
    def row(number: int) -> dict:
        parts = {"completions": [np.array([number])], "supervised": [np.array([True])]}
        return parts | {"row_id": number, "prompt": np.array([7, number // 2])}

    rows = TaskDataset.from_rows("a", [row(number) for number in range(12)], 1)
    fold_N = fold_of(rows, 3)
    assert (fold_N[::2] == fold_N[1::2]).all()
    assert np.bincount(fold_N).tolist() == [4, 4, 4]


def test_a_pair_that_was_taken_apart_is_in_one_fold(tiny):
    job = prepare(compose_settings(tiny("mixer=ama_s", "objective=kto")))
    for dataset in job.data["train"]:
        prompts = [dataset[n]["prompt"].tobytes() for n in range(len(dataset))]
        folds = {prompt: set() for prompt in prompts}
        for prompt, fold in zip(prompts, fold_of(dataset, 2), strict=True):
            folds[prompt].add(int(fold))
        if max(map(prompts.count, prompts)) <= len(prompts) / 2:
            assert all(len(found) == 1 for found in folds.values()), dataset.task


def test_rows_of_weight_0_fill_no_fold():
    rows = table([4, 8, 15, 16, 23, 42])
    rows.attach("weight", np.array([0, 0, 1, 0, 2, 0], np.float32))
    for fold in (0, 1):
        for part in (inside(rows, 2, fold), outside(rows, 2, fold)):
            assert part.columns["weight"].sum() > 0
    with pytest.raises(MixalignError, match=r"2 different training row.* of a weight above 0"):
        fold_of(rows, 3)


@pytest.fixture(scope="module")
def crossed(tiny):
    """The job of a tiny run with two specialists a task, scored, and its reference."""
    return scored(prepare(compose_settings(tiny("specialists.folds=2"))), train=True)


@pytest.mark.long
def test_training_rows_have_the_loss_of_the_other_fold_and_others_the_mean(crossed):
    job, reference = crossed
    for number, models in enumerate(find_folds(job, reference).values()):
        assert [model.recipe["fold"] for model in models] == [0, 1]
        losses = [_losses(job, model, number) for model in models]
        train = job.data["train"][number]
        fold_N, got_N = fold_of(train, 2), train.columns["specialist_loss"]
        for fold in (0, 1):
            assert got_N[fold_N == fold] == pytest.approx(losses[fold][inside(train, 2, fold).task, "train"], abs=1e-6)
        held_out = job.data["validation"][number]
        mean_N = (losses[0][held_out.task, "validation"] + losses[1][held_out.task, "validation"]) / 2
        assert held_out.columns["specialist_loss"] == pytest.approx(mean_N, abs=1e-6)


def _losses(job, model, number):
    """Of one specialist, on the fold that it has not seen and on the validation rows, straight from the cache."""
    found = {}
    for split in ("train", "validation"):
        rows = job.data[split][number]
        rows = inside(rows, 2, model.recipe["fold"]) if split == "train" else rows
        for path in (job.cache / "scores").iterdir():
            with path.open("rb") as file:
                head = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
            arrays = load_file(path)
            if model.identity in str(head) and set(arrays["row_id_N"]) == set(rows.row_id_N):
                found[rows.task, split] = frozen_losses(job.objective, rows, arrays["logp_NS"], number)
    assert len(found) == 2
    return found


@pytest.mark.long
def test_a_run_on_cross_fitted_specialists(tiny, train, crossed, caplog):
    """They are taken from the cache, its costs and plan have all of them, and its results name them."""
    caplog.set_level("INFO", logger="mixalign")
    run = train("mixer=ama_s", "specialists.folds=2")
    assert not [text for text in caplog.messages if text.startswith("specialist ")]
    result = json.loads((run / "eval.json").read_text())
    assert set(result["excess_over"]["specialists"]) == set(TASKS)
    recipes = json.loads((run / "specialists.json").read_text())
    assert {recipe["folds"] for recipe in recipes.values()} == {2}
    assert json.loads((run / "cost.json").read_text())["leans_on"]["specialists"]["steps"] == 2 * 3 * 3
    (stage,) = [line for line in make_plan(crossed[0]).stages if line.startswith("specialists")]
    assert stage == "specialists: 6 (2 a task, each without a part of its rows), 18 steps in all x 6 rows"


def test_who_wants_one_specialist_a_task_is_refused_by_name(tiny, refuse, crossed):
    assert "`merge.methods` merges one specialist a task, and `specialists.folds` is 2" in refuse(
        tiny("specialists.folds=2", "merge.methods=[linear]")
    )
    with pytest.raises(MixalignError, match=r"`specialists\.folds` is 2"):
        find_specialists(*crossed)
    with pytest.raises(MixalignError, match="MixMin mixes one specialist a task"):
        fit_from_specialists(compose_settings(tiny("specialists.folds=2", "objective=sft")))


@pytest.mark.long
def test_the_best_step_of_a_specialist_is_kept(tiny, finished, cache, capsys):
    """At a rate that ruins them, the first of three steps is the best; and the recipe says so."""
    ruinous = ("specialists.lr=0.05", "optimizer.warmup_steps=0")
    rows = {}
    for export in ("last", "best"):
        specialists.run(compose_settings(tiny(*ruinous, f"specialists.export={export}")))
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        rows[export] = {line[0]: line for line in lines if line and line[0] in TASKS}
    better = [float(rows["best"][task][2]) <= float(rows["last"][task][2]) for task in TASKS]
    assert all(better)
    assert any(float(rows["best"][task][2]) < float(rows["last"][task][2]) for task in TASKS)
    for task in TASKS:
        folders = [cache / "specialists" / rows[export][task][-1] for export in ("last", "best")]
        last, best = (json.loads((folder / "recipe.json").read_text()) for folder in folders)
        assert {*best} - {*last} == {"best_on"}
    assert not list(cache.glob(".best*"))


def test_specialists_without_validation_rows_have_no_best_step(tiny):
    job = prepare(compose_settings(tiny("specialists.export=best")))
    none = job.data["validation"][0].take(np.zeros(0, int))
    job = replace(job, data=job.data | {"validation": [none, *job.data["validation"][1:]]})
    with pytest.raises(MixalignError, match=r"`specialists\.export=best` .* task `helpful` has none"):
        check_run(job, job.settings.mixer, train_specialists=True)


@pytest.mark.long
def test_the_exported_step_may_be_chosen_by_the_gap(train):

    run = train("mixer=ama_s", "export=best_gap", "val_every=1")
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    assert {state["monitor"] for state in saved.values() if state.get("monitor")} == {"eval/worst_gap"}


def test_a_gap_asks_for_specialists(tiny, refuse):
    message = refuse(tiny("mixer=uniform", "export=best_gap", "specialists.train=never"))
    assert "`export=best_gap` needs specialists" in message
