"""References, specialists and scores are made once, reused by name, and refused when they are of something else."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file, save_file

from mixalign.config.compose import compose_settings
from mixalign.errors import MixalignError
from mixalign.frozen.policy import reference_policy
from mixalign.frozen.specialists import find_specialists
from mixalign.jobs.job import prepare
from mixalign.training.callbacks.specialist_check import SpecialistCheck
from mixalign.verbs import score, specialists

TASKS = ("helpful", "reverse", "compare")


def read(path: Path):
    return json.loads(path.read_text())


def files(cache: Path, stage: str) -> dict[str, int]:
    """Time of change of every file of a stage."""
    return {str(f.relative_to(cache)): f.stat().st_mtime_ns for f in (cache / stage).rglob("*") if f.is_file()}


@pytest.fixture
def own_cache(finished, cache, tmp_path) -> Path:
    """A copy of the cache that a test may spoil. `finished` filled it."""
    return shutil.copytree(cache, tmp_path / "own_cache")


@pytest.fixture
def pinned(finished, tiny, tmp_path) -> Path:
    """A folder for `specialists.dir`: those of `finished`, by the name of their task."""
    folder = tmp_path / "pinned"
    for task, model in find_specialists(*reference_policy(prepare(compose_settings(tiny("mixer=ama_s"))))).items():
        shutil.copytree(model.place, folder / task)
    assert sorted(p.name for p in folder.iterdir()) == sorted(TASKS)
    return folder


@pytest.fixture
def said(caplog):
    """What the stages say that they train."""
    caplog.set_level("INFO", logger="mixalign")
    return lambda: [m for m in caplog.messages if m.startswith(("reference:", "specialist "))]


@pytest.mark.long
def test_specialists_are_trained_once_and_reused_by_other_mixers_and_seeds(train, tmp_path, said):
    mine = f"cache_dir={tmp_path / 'fresh'}"
    train(mine, run="first")
    assert [line.partition(":")[0] for line in said()] == [
        "reference",
        "specialist 1/3",
        "specialist 2/3",
        "specialist 3/3",
    ]
    made = files(tmp_path / "fresh", "")
    train(mine, "mixer=ama_r", "seed=1", run="second")
    train(mine, "mixer=uniform", "specialists.train=never", run="third")
    assert len(said()) == 4  # nothing more
    assert files(tmp_path / "fresh", "") == made
    assert "excess" in read(tmp_path / "third" / "eval.json")["mean"]  # what is there judges every run

    train(mine, "objective.beta=0.3", run="other")
    assert [line.partition(":")[0] for line in said()[4:]] == ["specialist 1/3", "specialist 2/3", "specialist 3/3"]
    now = files(tmp_path / "fresh", "")
    assert {name: now[name] for name in made} == made
    assert len({name.split("/")[1] for name in now if name.startswith("specialists/")}) == 6


@pytest.mark.long
def test_two_runs_at_once_share_a_cache(start, tiny, finished, cache, tmp_path):
    """Each stage is made by one of them, whichever comes first, and is what one run alone has made."""
    shared = tmp_path / "cache"
    runs = [start("train", *tiny(f"seed={n}", f"cache_dir={shared}", f"run_dir={tmp_path / str(n)}")) for n in (0, 1)]
    assert [run.wait(240) for run in runs] == [0, 0], [run.stderr for run in runs]
    for kind in ("reference/*/model/*", "specialists/*/model/*", "scores/*"):
        made = sorted(path.relative_to(shared) for path in shared.glob(kind))
        assert made
        for path in made:
            if path.suffix == ".safetensors":
                wanted = load_file(cache / path)
                assert all((array == wanted[name]).all() for name, array in load_file(shared / path).items()), path
    assert not [path for path in shared.glob("*/.*")]
    assert len(list((shared / "specialists").iterdir())) == 3
    assert read(tmp_path / "0" / "eval.json") == read(finished / "eval.json")


def test_specialists_that_were_made_elsewhere_are_taken_by_name(train, pinned, finished, said):
    before = files(pinned, "")
    run = train(f"specialists.dir={pinned}", "specialists.train=never")
    assert read(run / "eval.json") == read(finished / "eval.json")
    assert files(pinned, "") == before
    assert said() == []


def test_a_training_that_was_cut_short_is_not_stored(tiny, refuse, finished, cache, tmp_path, monkeypatch):
    """Else it would stand under a recipe with all its steps, and later runs would take it for that."""
    own = shutil.copytree(cache, tmp_path / "own")
    shutil.rmtree(own / "specialists")
    after = SpecialistCheck.on_train_batch_end

    def stop(self, trainer, *rest):
        trainer.should_stop = True
        after(self, trainer, *rest)

    monkeypatch.setattr(SpecialistCheck, "on_train_batch_end", stop)
    message = refuse(tiny("mixer=ama_s", f"cache_dir={own}"))
    assert message.startswith("The training `specialist helpful` ended at step 1 of 3, so it is not stored")
    assert not [*own.glob("specialists/*")]


@pytest.mark.parametrize("mixer", ["ama_s", "uniform"])
def test_pinned_specialists_of_another_beta_are_refused_by_name(tiny, refuse, pinned, mixer):
    before = files(pinned, "")
    message = refuse(tiny(f"specialists.dir={pinned}", "objective.beta=0.2", f"mixer={mixer}"))
    assert "objective.beta: got 0.5, wanted 0.2" in message
    assert str(pinned / "helpful") in message
    assert files(pinned, "") == before


def test_a_stale_reference_is_refused_by_name(tiny, refuse, own_cache):
    for path in (own_cache / "reference").glob("*/recipe.json"):
        path.write_text(json.dumps(read(path) | {"seed": 7}))
    before = files(own_cache, "")
    message = refuse(tiny(f"cache_dir={own_cache}"))
    assert "seed: got 7, wanted 0" in message
    assert files(own_cache, "") == before


def test_a_truncated_score_table_is_refused_by_name_and_nothing_is_deleted(tiny, refuse, own_cache):
    for table in (own_cache / "scores").iterdir():
        table.write_bytes(table.read_bytes()[:100])
    before = files(own_cache, "")
    message = refuse(tiny(f"cache_dir={own_cache}"))
    assert str(own_cache / "scores") in message
    assert "damaged" in message
    assert "Delete it" in message
    assert files(own_cache, "") == before


def test_a_score_table_of_other_rows_is_refused_by_name(tiny, refuse, own_cache):
    tables = sorted((own_cache / "scores").iterdir())
    for one, other in zip(tables, tables[1:] + tables[:1], strict=True):
        one.rename(f"{other}.moved")
    for table in (own_cache / "scores").iterdir():
        table.rename(str(table).removesuffix(".moved"))
    message = refuse(tiny(f"cache_dir={own_cache}"))
    assert "is stale" in message
    assert ": got '" in message


def test_scores_of_other_weights_are_noticed_at_the_first_batch(tiny, refuse, own_cache):
    """Right by name, wrong by content: the first loss is not the log 2 that the scores promise."""
    for path in (own_cache / "scores").iterdir():
        arrays = load_file(path)
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            recipe = json.loads(file.read(size))["__metadata__"]
        arrays["logp_NS"] = arrays["logp_NS"] + [0.5, -0.5]  # one nat of margin
        save_file(arrays, path, metadata=recipe)
    message = refuse(tiny(f"cache_dir={own_cache}", "mixer=uniform", "specialists.train=never"))
    assert "not those of the model that training starts from" in message


def test_a_half_made_specialist_is_made_again(train, own_cache, said):
    """An interrupted run leaves a folder without a recipe."""
    for one in (own_cache / "specialists").glob("compare-*"):
        (one / "recipe.json").unlink()
    train(f"cache_dir={own_cache}")
    assert said() == ["specialist 3/3: compare"]


def test_no_specialists_means_no_excess_and_the_best_checkpoint_by_loss(train):
    run = train("mixer=uniform", "specialists.train=never", "objective.beta=0.7")
    result = read(run / "eval.json")
    assert set(result["mean"]) == {"start_loss", "loss", "accuracy", "margin"}
    assert set(result["worst"]) == {"loss", "accuracy"}
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    assert {state["monitor"] for state in saved.values() if state.get("monitor")} == {"eval/worst_loss"}


@pytest.mark.parametrize("mixer", ["ama_s", "ama_r"])
def test_a_mixer_that_needs_specialists_is_refused_without(tiny, refuse, mixer, cache):
    before = files(cache, "")
    message = refuse(tiny("specialists.train=never", f"mixer={mixer}"))
    assert f"mixer={mixer}" in message
    assert "specialists.train=never" in message
    assert "specialists.dir" in message
    assert files(cache, "") == before


@pytest.mark.long
def test_a_live_reference_gives_the_losses_of_the_cached_one(train):
    adapter = ("lora=default", "lora.r=2", "optimizer.lr=0.01", "mixer=uniform", "specialists.train=never")
    modes = ("cached", "frozen_copy", "adapter_off")
    cached, *live = (read(train(*adapter, f"reference.mode={mode}", run=mode) / "eval.json") for mode in modes)
    for other in live:
        for task in TASKS:
            assert other["tasks"][task] == pytest.approx(cached["tasks"][task], abs=2e-6)
    assert cached["worst"]["loss"]["value"] != pytest.approx(math.log(2), abs=1e-4)  # the model moved


def test_an_unknown_mode_is_refused_before_anything_is_trained(tiny, refuse, tmp_path):
    message = refuse(tiny("reference.mode=frozen", f"cache_dir={tmp_path / 'none'}"))
    assert "`reference.mode` is 'frozen'. Did you mean `frozen_copy`?" in message
    assert not (tmp_path / "none").exists()


def test_the_specialists_verb_trains_and_prints_losses_and_places(tiny, finished, capsys, cache):
    specialists.run(compose_settings(tiny()))
    title, heads, _, *lines, note = capsys.readouterr().out.splitlines()
    assert (title, heads.split()) == (
        "Specialists: mean loss in nats",
        ["task", "train", "validation", "test", "folder"],
    )
    assert [line.split()[0] for line in lines] == list(TASKS)
    assert note == f"folders in {cache / 'specialists'}"
    losses = {task: read(finished / "eval.json")["tasks"][task]["specialist_loss"] for task in TASKS}
    for line, task in zip(lines, TASKS, strict=True):
        assert line.split()[3] == f"{losses[task]:.3f}"
        assert (cache / "specialists" / line.split()[-1] / "model" / "model.safetensors").is_file()


def rows_of(table: str) -> list[str]:
    return [" ".join(line.split()) for line in table.splitlines()]


def test_the_score_verb_scores_every_split(tiny, finished, capsys):
    score.run(compose_settings(tiny()))
    out = capsys.readouterr().out
    for task in TASKS:
        for split, rows in (("train", 40), ("validation", 8), ("test", 8)):
            assert f"{task} {split} {rows} reference_logp, specialist_loss" in rows_of(out)
    score.run(compose_settings(tiny("specialists.seed=5")))
    out = capsys.readouterr().out
    assert "compare test 8 reference_logp" in rows_of(out)
    assert "no specialists yet" in out


@pytest.mark.parametrize("verb", [score, specialists])
def test_both_verbs_have_the_processes_that_are_asked_for(tiny, finished, verb):
    """Which these cannot be; on one process nobody would have looked."""
    with pytest.raises(MixalignError, match=r"stages cannot share them\. Use `trainer=ddp`"):
        verb.run(compose_settings(tiny("trainer.devices=2", "trainer.strategy=ddp_spawn")))
