"""`fast_dev_run=true`: every stage runs, and nothing is left."""

import logging
import tempfile
from dataclasses import replace

import pytest

from mixalign import train
from mixalign.config.compose import compose_settings
from mixalign.errors import MixalignError, Stopped
from mixalign.jobs.job import prepare
from mixalign.models.gguf import GGUF
from mixalign.runs.dev_run import least_steps, shortened, trial
from tests.models.tiny_gguf import tiny_llama, write_gguf
from tests.tiny_runs import ROOT, snapshot

RULES = sorted(path.stem for path in (ROOT / "conf" / "mixer").glob("*.yaml") if path.stem not in ("fixed", "skill_it"))


@pytest.mark.long
def test_every_stage_runs_and_nothing_is_left(tiny, cache, tmp_path, caplog, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    before = snapshot(cache)
    with caplog.at_level(logging.INFO, logger="mixalign"):
        result = train(*tiny("mixer=ama_s", "merge.methods=[ties]", "fast_dev_run=true"), run_dir=str(tmp_path / "run"))
    said = "\n".join(caplog.messages)
    assert result["steps"] == 2
    assert "reference: 2 steps" in said
    assert "specialist 3/3" in said
    assert caplog.messages[0].startswith("fast_dev_run: 2 steps of every stage")
    assert caplog.messages[-1].startswith("fast_dev_run: every stage has run; nothing of it was kept.")
    assert snapshot(cache) == before
    assert not (tmp_path / "run").exists()
    shown = capsys.readouterr()
    assert "merge_ties" in shown.out
    assert not [line for line in [*caplog.messages, *shown.out.splitlines()] if "mixalign-trial" in line], "it is gone"
    assert not [path for path in (tmp_path / "tmp").iterdir() if path.name.startswith("mixalign-")]


def test_a_model_that_the_cache_has_unpacked_is_not_unpacked_again(tiny, tmp_path, caplog):
    """The trial has a cache of its own; what the file became in the run's is only read."""
    path = write_gguf(tmp_path / "model.gguf", tiny_llama())
    cache = tmp_path / "cache"
    settings = compose_settings(["model=gguf", f"model.gguf_file={path}", f"cache_dir={cache}"])
    with trial(settings) as (short, _):
        assert isinstance(short.model, GGUF)  # nothing is there yet, and the trial leaves nothing
    assert not cache.exists()
    made = settings.model.unpacked(cache)
    before = snapshot(cache)
    with trial(settings) as (short, _):
        assert short.model == made
        assert prepare(replace(short, data=compose_settings(tiny()).data)).settings.model == made
    assert snapshot(cache) == before


def test_no_message_of_a_trial_names_its_folder(tiny, caplog):
    log, folders = logging.getLogger("mixalign.anything"), []

    def end(error):
        with trial(compose_settings(tiny())) as (_, run):
            folders.append(run)
            log.info("%s is there already", run)
            raise error(run)

    caplog.set_level(logging.INFO)
    with pytest.raises(MixalignError, match=r"^a folder of the trial is damaged\.$"):
        end(lambda run: MixalignError(f"{run} is damaged."))
    assert "a folder of the trial is there already" in caplog.messages
    with pytest.raises(Stopped) as stop:
        end(lambda run: Stopped(f"stopped by SIGTERM in the training; saved {run}/last.ckpt. It goes on there.", 143))
    assert stop.value.text == (
        "stopped by SIGTERM in the training; nothing of the trial is kept. The same command tries again."
    )
    assert stop.value.code == 143
    log.warning("%s", folders[0])
    assert caplog.messages[-1] == str(folders[0]), "what is said afterwards is left as it is"


def test_what_is_shortened(tiny, tmp_path):
    (tmp_path / "tasks" / "math").mkdir(parents=True)
    (tmp_path / "tasks" / "math" / "train.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    more = ("data.tasks.own.path=own.jsonl", "data.tasks.own.max_rows=5", "logger=wandb", "specialists.dir=x")
    plain = compose_settings(tiny(f"data.root={tmp_path / 'tasks'}", *more)).plain
    short = shortened(plain, tmp_path / "cache")
    assert (short["steps"], short["specialists"]["steps"], short["reference"]["sft_steps"]) == (2, 2, 2)
    assert short["data"]["tasks"]["math"] == {"max_rows": 32}
    assert short["data"]["tasks"]["own"] == {"path": "own.jsonl", "max_rows": 5}
    assert short["data"]["tasks"]["helpful"]["rows"] == 32
    assert (short["specialists"]["dir"], [*short["logger"]]) == (None, ["csv"])
    assert plain["steps"] == 4, "what was given stays as it is"


@pytest.mark.parametrize("mixer", RULES)
def test_a_rule_gets_as_many_steps_as_it_needs(tiny, mixer):
    """Aioli's learning phase does not fit into two."""
    settings = compose_settings(tiny(f"mixer={mixer}"))
    steps = least_steps(settings)
    settings.mixer.for_run(["helpful", "reverse", "compare"], steps)
    assert (steps > 2) == (mixer == "aioli")


def test_a_trial_of_a_rule_with_phases(tiny, tmp_path, caplog):
    settings = compose_settings(tiny("mixer=aioli"))
    with caplog.at_level(logging.INFO, logger="mixalign"), trial(settings) as (short, _):
        assert short.steps == least_steps(settings)
    assert f"({short.steps} of the generalist: `mixer=aioli` has no fewer)" in caplog.text


def test_a_sweep_is_refused():
    with (
        pytest.raises(MixalignError, match=r"`fast_dev_run=true` tries out one run .*`-m`"),
        trial(compose_settings([]), in_sweep=True),
    ):
        pass


def test_the_name_that_lightning_has_is_read():
    assert compose_settings(["trainer.fast_dev_run=true"]).fast_dev_run
    assert compose_settings(["+trainer.fast_dev_run=true"]).fast_dev_run
