"""SIGTERM and Ctrl-C in every stage: 143 or 130, one message, and the same command goes on."""

import json
import os
import signal
import time

import pytest

from mixalign.config.compose import as_today, compose_settings
from mixalign.errors import Stopped
from mixalign.training.callbacks.leave import Leave
from tests.tiny_runs import train_from_overrides

STAGES = {  # what is called in it -> arguments, the stage as the message has it
    "mixalign.jobs.job.read_task": ((), "the reading of the rows"),
    "mixalign.frozen.cache.score_on_ranks": ((), "the scoring (reference helpful train)"),
    "mixalign.runs.train_one.evaluate": ((), "the evaluation and export"),
    "mixalign.runs.train_one.save_model": ((), "the evaluation and export"),
    "mixalign.merging.runs.merge_specialists": (("merge.methods=[linear]",), "the merge by linear"),
    "mixalign.runs.rounds.measure": (("mixer=ideal", "objective=sft", "mixer.rounds=1"), "the influence of round 0"),
}


@pytest.mark.long
@pytest.mark.parametrize(("place", "number"), [(p, n) for p, n in zip(STAGES, [15, 2] * 3, strict=True)])
def test_every_stage_is_left_at_once(in_process, tiny, cache, finished, tmp_path, monkeypatch, place, number):
    """A run before it has left Lightning's own handlers nowhere."""
    more, stage = STAGES[place]
    run = ["train", *tiny(*more), f"run_dir={tmp_path / 'run'}"]
    if "cache" in place:
        run.append(f"cache_dir={tmp_path / 'cache'}")

    def told(*args, **kwargs):
        os.kill(os.getpid(), number)
        for _ in range(1000):
            time.sleep(0.01)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(place, told)
        code, _, err = in_process(*run)
    assert code == 128 + number, err
    name = signal.Signals(number).name
    assert err.count("stopped by") == 1
    assert f"\nstopped by {name} in {stage}; " in f"\n{err}"
    assert err.rstrip().endswith(f"The same command with run_dir={tmp_path / 'run'} goes on from there.")
    assert "Traceback" not in err
    assert signal.getsignal(number) == before
    code, _, err = in_process(*run)
    assert code == 0, err
    assert (tmp_path / "run" / "eval.json").is_file()


@pytest.mark.long
def test_a_sweep_stops_as_a_whole(in_process, tiny, finished, tmp_path, monkeypatch):
    real = Leave.on_train_start

    def told(self, trainer, module):
        real(self, trainer, module)
        if "1_uniform" in str(self.path):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Leave, "on_train_start", told)
    code, _, err = in_process("train", "-m", *tiny("mixer=uniform", "seed=0,1,2,3"), f"run_dir={tmp_path}")
    assert code == 143, err
    assert err.count("stopped by SIGTERM in the training; saved ") == 1
    became = "finished: 0 (seed=0); stopped: 1 (seed=1); not begun: 2 (seed=2), 3 (seed=3)."
    assert f"The same command with run_dir={tmp_path} goes on from there. The sweep ends here." in err
    assert f"The sweep ends here. Of its 4 runs, {became}" in err
    folders = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert folders == ["0_uniform_seed0", "1_uniform_seed1"]


@pytest.mark.long
def test_a_sweep_names_all_runs_that_failed(in_process, tiny, finished, tmp_path):
    code, _, err = in_process(
        "train", "-m", *tiny("mixer=uniform"), "merge.methods=[],[magic],[tricks]", f"run_dir={tmp_path}"
    )
    assert code == 1
    assert "Traceback" not in err
    message = err.partition("\nerror: ")[2]
    assert message.startswith("2 of 3 runs failed; the others are finished.\n")
    assert "1 (merge.methods=[magic]): " in message
    assert "2 (merge.methods=[tricks]): " in message
    assert (tmp_path / "0_uniform_seed0" / "eval.json").is_file()


@pytest.mark.long
def test_a_sweep_of_joblib_stops_as_a_whole(start, tiny, finished, tmp_path):
    """Every run that was begun has saved itself."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    more = ["steps=4000", "val_every=4000", "log_every=100", "specialists.train=never", "launcher=joblib"]
    command = start("train", "-m", *tiny("mixer=uniform", "seed=0,1,2,3"), *more, f"run_dir={tmp_path}")
    histories = [tmp_path / f"{n}_uniform_seed{n}" / "mix.jsonl" for n in (0, 1)]
    end = time.monotonic() + 150
    while command.poll() is None and time.monotonic() < end and not all(path.is_file() for path in histories):
        time.sleep(0.01)
    command.send_signal(signal.SIGTERM)
    assert command.wait(60) == 143, command.stderr
    assert "The sweep ends here. Of its 4 runs, stopped: 0 (" in command.stderr
    assert "not begun: 2 (" in command.stderr
    for path in histories:
        assert (path.parent / "checkpoints" / "last.ckpt").is_file()
    assert not [path for path in tmp_path.iterdir() if path.name[0] in "23"]


@pytest.mark.parametrize("value", ["00:00:00:01", "1", "{seconds: 1}", "1.0"])
def test_a_time_limit_is_taken_as_lightning_takes_it(tiny, value):
    assert compose_settings(tiny(f"max_time={value}")).seconds == 1


@pytest.mark.parametrize("value", ["0", "-5", "soon", "true", "{weeks: x}", "1:00", "[1]"])
def test_what_is_no_time_is_refused(tiny, refuse, value):
    assert refuse(tiny(f"max_time={value}")).startswith("`max_time` is ")


def test_the_trainers_time_limit_is_ours(tiny, caplog):
    assert as_today(["+trainer.max_time=00:00:01:00"]) == ["max_time=00:00:01:00"]
    assert caplog.messages == ["`trainer.max_time` is called `max_time` now."]


def test_a_limited_run_says_that_it_is_not_finished_and_goes_on(in_process, tiny, finished, tmp_path, monkeypatch):
    """The time is over at its second step; the same command gives what an unlimited one gives."""
    run = ["train", *tiny("mixer=ama_s", "max_time=3600"), f"run_dir={tmp_path / 'run'}"]
    real = Leave._agreed

    def over(self, trainer):
        if trainer.global_step == 2:
            from mixalign import stopping

            stopping._time_is_over()
        return real(self, trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Leave, "_agreed", over)
        code, _, err = in_process(*run)
    assert code == 0, err
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert f"stopped after `max_time` (3600 s), not finished, in the training; saved {last}. The same" in err
    assert not (tmp_path / "run" / "eval.json").exists()
    code, _, err = in_process(*run)
    assert code == 0, err
    assert "finished already" not in err
    assert (tmp_path / "run" / "eval.json").read_bytes() == (finished / "eval.json").read_bytes()


def test_a_limit_enters_neither_recipes_nor_comparisons(tiny, finished, tmp_path):
    """Every part comes from the cache, and a finished run takes another limit."""
    with pytest.raises(Stopped) as caught:
        train_from_overrides(tiny("mixer=ama_s", "max_time=0.001"), str(tmp_path / "run"))
    assert caught.value.code == 0
    result = train_from_overrides(tiny("mixer=ama_s", "max_time=5000"), str(finished))
    assert result == json.loads((finished / "eval.json").read_text())
