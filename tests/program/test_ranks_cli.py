"""Runs on two processes, however they are started, and sweeps by every launcher that needs no cluster."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 240
PYTHON = [sys.executable, "-m", "mixalign"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "mixalign"]

pytestmark = pytest.mark.slow


def members(session: int) -> list[int]:
    """Processes of a session that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, own = stat.read_text().rpartition(")")[2].split()[:4]
            if int(own) == session and state != "Z":
                found.append(int(stat.parent.name))
    return found


class Finished(subprocess.CompletedProcess):
    """Of a command; `left` are processes that it left behind."""

    left: list[int]


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """Runs a command in a session of its own, which ends with the call whatever happens."""
    home = tmp_path_factory.mktemp("home")
    hidden = ("MIXALIGN_", "WANDB_", "PL_", "LOCAL_", "RANK", "WORLD_SIZE", "MASTER_", "SLURM_")

    def go(
        *command: str,
        kill_after: Callable[[str], bool] | None = None,
        how: int = signal.SIGKILL,
        second: bool = False,
        **environment: str,
    ) -> Finished:
        env = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
        env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HOME": str(home)}
        env |= {"MPLCONFIGDIR": str(home / "matplotlib"), "TMPDIR": str(home)} | environment
        with (home / "out").open("w+") as out, (home / "err").open("w+") as err:
            process = subprocess.Popen(command, cwd=home, env=env, stdout=out, stderr=err, start_new_session=True)
            try:
                if kill_after:
                    end = time.monotonic() + SECONDS
                    while not kill_after((home / "err").read_text()) and time.monotonic() < end:
                        time.sleep(0.1)
                    assert len(members(process.pid)) > 1, (home / "err").read_text()
                    others = [pid for pid in members(process.pid) if pid != process.pid]
                    os.kill(others[0] if second else process.pid, how)
                process.wait(SECONDS)
                time.sleep(3 if kill_after else 0)
                left = members(process.pid)
            finally:
                for pid in members(process.pid):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.wait(60)
            out.seek(0)
            err.seek(0)
            done = Finished(command, process.returncode, out.read(), err.read())
        done.left = left
        assert not [path.name for path in home.glob("mixalign-*")], "temporary folders are left"
        return done

    return go


@pytest.fixture(scope="module")
def one(cli, tiny, tmp_path_factory):
    """The folder of a run by one process, with a cache of its own."""
    root = tmp_path_factory.mktemp("one")
    done = cli("train", *settings(tiny, root))
    assert done.returncode == 0, done.stderr
    return root


def settings(tiny, root: Path, *more: str) -> list[str]:
    return [*tiny(f"cache_dir={root / 'cache'}", f"run_dir={root / 'run'}", "mixer=ama_r"), *more]


def assert_same(root: Path, wanted: Path) -> None:
    """The same stages, scores, mixtures and model, up to rounding."""
    for kind in ("reference", "specialists", "scores"):
        counts = [len(list((place / "cache" / kind).iterdir())) for place in (root, wanted)]
        assert counts[0] == counts[1], kind
    lines = [[json.loads(x) for x in (place / "run/mix.jsonl").read_text().splitlines()] for place in (root, wanted)]
    assert len(lines[0]) == len(lines[1]) == 4
    for line, expected in zip(*lines, strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], abs=1e-5)
        assert line["excess"] == pytest.approx(expected["excess"], abs=1e-5)
        assert line["count"] == expected["count"]
    weights, expected = (load_file(place / "run/model/model.safetensors") for place in (root, wanted))
    assert weights.keys() == expected.keys()
    assert max(float((weights[name] - expected[name]).abs().max()) for name in weights) < 1e-4
    results = [json.loads((place / "run/eval.json").read_text()) for place in (root, wanted)]
    assert results[0]["worst"]["excess"]["value"] == pytest.approx(results[1]["worst"]["excess"]["value"], abs=1e-4)


STARTS = {
    "ddp": (PYTHON, ["trainer=ddp", "trainer.devices=2"]),
    "fsdp2": (PYTHON, ["trainer=fsdp2", "trainer.devices=2"]),
    "torchrun": (TORCHRUN, []),
    "torchrun with fsdp2": (TORCHRUN, ["trainer=fsdp2"]),
}


@pytest.mark.long
@pytest.mark.parametrize("launch", STARTS)
def test_two_processes_make_the_run_of_one(call, tiny, one, tmp_path, launch):
    command, more = STARTS[launch]
    done = call(*command, "train", *settings(tiny, tmp_path, *more, "trainer.accelerator=cpu"))
    assert done.returncode == 0, done.stderr
    assert done.left == []
    assert done.stdout.count("run folder: ") == 1
    assert done.stderr.count("specialist 1/3") == 1  # nobody trains, or says, anything twice
    assert "Warning" not in done.stderr
    assert_same(tmp_path, one)


@pytest.mark.long
def test_the_mean_of_the_weights_of_two_processes_is_that_of_one(call, cli, tiny, one, tmp_path):
    """Each keeps a mean of its own copy, and a checkpoint has one of them."""
    given = ("mixer=ama_s", "export=averaged", "trainer.accelerator=cpu", f"cache_dir={tmp_path / 'cache'}")
    shutil.copytree(one / "cache", tmp_path / "cache")
    means = []
    for name, more in (("one", []), ("two", ["trainer=ddp", "trainer.devices=2"])):
        done = call(*PYTHON, "train", *tiny(*given, *more, f"run_dir={tmp_path / name}"))
        assert done.returncode == 0, done.stderr
        result = json.loads((tmp_path / name / "eval.json").read_text())
        assert result["exported"]["averaged"] == [4, 4]
        means.append((load_file(tmp_path / name / "model/model.safetensors"), result["exported"]["candidates"]))
    (mine, seen), (other, also) = means
    assert max(float((mine[key] - other[key]).abs().max()) for key in mine) < 1e-4
    assert seen["averaged"] == pytest.approx(also["averaged"], abs=1e-4)


@pytest.mark.long
def test_specialists_of_two_processes_are_those_of_one(cli, tiny, one, tmp_path):
    """One of them is missing, and all scores."""
    cache = tmp_path / "cache"
    shutil.copytree(one / "cache", cache)
    shutil.rmtree(cache / "scores")
    shutil.rmtree(next((cache / "specialists").glob("reverse-*")))
    given = [text for text in settings(tiny, tmp_path) if not text.startswith("run_dir=")]
    done = cli("specialists", *given, "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[3:]  # below title, heads and a rule; a long path is broken into lines
    assert [line.split()[0] for line in lines[:4]] == ["helpful", "reverse", "compare", "folders"]
    assert done.stderr.count("specialist 2/3: reverse") == done.stderr.count("specialist ") == 1
    assert sorted(path.name for path in cache.glob("s*/*")) == sorted(p.name for p in (one / "cache").glob("s*/*"))
    for path in (cache / "scores").iterdir():
        for name, table in load_file(path).items():
            torch.testing.assert_close(table, load_file(one / "cache" / "scores" / path.name)[name], rtol=0, atol=1e-4)


@pytest.mark.long
def test_rounds_on_two_processes(call, tiny, tmp_path):
    """Their trainings, reference losses and influence are shared as well."""
    runs = []
    for name, more in (("one", []), ("two", ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"])):
        root = tmp_path / name
        given = settings(tiny, root, "mixer=ideal", "mixer.rounds=1", "specialists.train=never", *more)
        done = call(*PYTHON, "train", *given)
        assert done.returncode == 0, done.stderr
        assert done.left == []
        runs.append(json.loads((root / "run/rounds/0/benefit.json").read_text()))
    assert runs[1]["benefit"] == pytest.approx(runs[0]["benefit"], rel=1e-2, abs=1e-4)
    assert runs[1]["rows_read"] == runs[0]["rows_read"]


@pytest.mark.long
def test_a_sweep_on_two_processes_is_one_sweep(call, tiny, tmp_path):
    """Every run starts its own second process; none of them sweeps, and none is left for the next run."""
    given = settings(
        tiny, tmp_path, "mixer=uniform,ama_s", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"
    )
    done = call(*PYTHON, "train", "-m", *given)
    assert done.returncode == 0, done.stderr
    assert done.left == []
    folders = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert folders == ["0_uniform_seed0", "1_ama_s_seed0", "multirun.yaml"]
    for name in folders[:2]:
        log = (tmp_path / "run" / name / "train.log").read_text()
        assert log.count("3 tasks, 120 rows") == 1
        assert json.loads((tmp_path / "run" / name / "eval.json").read_text())["mixer"] in name
    assert done.stderr.count("specialist 1/3") == 1


@pytest.mark.long
@pytest.mark.parametrize(
    ("launcher", "plugin"),
    [
        ("joblib", "hydra_plugins.hydra_joblib_launcher"),
        ("submitit", "submitit"),
    ],
)
def test_four_runs_by_a_launcher(call, tiny, tmp_path, launcher, plugin):
    """At a time, and still no stage is made twice."""
    try:
        found = importlib.util.find_spec(plugin)
    except ImportError:
        found = None
    if found is None:
        pytest.skip(f"needs {plugin}: pip install 'mixalign[sweeps]'")
    sweep = ["mixer=uniform,ama_s", "seed=0,1", f"launcher={launcher}"]
    done = call(*PYTHON, "train", "-m", *settings(tiny, tmp_path, *sweep))
    assert done.returncode == 0, done.stderr
    names = ["0_uniform_seed0", "1_uniform_seed1", "2_ama_s_seed0", "3_ama_s_seed1"]
    logs = [(tmp_path / "run" / name / "train.log").read_text() for name in names]
    assert all((tmp_path / "run" / name / "model" / "model.safetensors").is_file() for name in names)
    for stage in ("reference: 3 steps", "specialist 1/3", "specialist 2/3", "specialist 3/3"):
        assert sum(log.count(stage) for log in logs) >= 1
    assert len(list((tmp_path / "cache" / "specialists").iterdir())) == 3
    assert len(list((tmp_path / "cache" / "reference").iterdir())) == 1


@pytest.mark.long
def test_a_refused_run_on_two_processes_is_one_message(call, tiny, tmp_path):
    given = settings(tiny, tmp_path, "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "batch_size=7")
    done = call(*PYTHON, "train", *given)
    assert done.returncode == 1
    assert done.left == []
    assert done.stderr.count("error: ") == 1
    assert "`batch_size` is 7" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_lightnings_way_to_share_rows_is_refused(call, tiny, tmp_path):
    done = call(*PYTHON, "train", *settings(tiny, tmp_path, "+trainer.use_distributed_sampler=true"))
    assert done.returncode == 1
    assert "`trainer.use_distributed_sampler` cannot be set" in done.stderr


@pytest.mark.long
def test_several_machines_need_a_launcher(call, tiny, tmp_path):
    done = call(*PYTHON, "train", *settings(tiny, tmp_path, "trainer=ddp", "trainer.devices=1", "trainer.num_nodes=2"))
    assert done.returncode == 1
    assert "torchrun --nnodes" in done.stderr


@pytest.mark.long
def test_another_number_of_processes_than_the_launchers_is_refused(call, tiny, tmp_path):
    done = call(*TORCHRUN, "train", *settings(tiny, tmp_path, "trainer.devices=3"))
    assert done.returncode == 1
    assert "error: Lightning refuses the settings of `trainer`: You set `devices=3`" in done.stderr
    assert done.left == []


@pytest.mark.long
def test_processes_that_end_with_every_training_are_refused(call, tiny, tmp_path):
    done = call(*PYTHON, "train", *settings(tiny, tmp_path, "trainer.devices=2", "trainer.strategy=ddp_spawn"))
    assert done.returncode == 1
    assert "Use `trainer=ddp`" in done.stderr


@pytest.mark.long
def test_a_killed_run_leaves_no_process(call, tiny, tmp_path):
    given = settings(tiny, tmp_path, "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "steps=100000")
    done = call(*PYTHON, "train", *given, kill_after=lambda said: "specialist 3/3" in said)
    assert done.returncode == -signal.SIGKILL
    assert done.left == []


@pytest.mark.long
def test_a_run_of_two_processes_is_broken_and_stopped_and_goes_on_with_one(call, cli, tiny, one, tmp_path):
    """The second process is killed; then SIGTERM reaches the first only, as from a cluster that wants it back."""
    more = ["steps=200", "val_every=5", "specialists.train=never", "mixer=uniform", "log_every=50"]
    given = settings(tiny, tmp_path, *more, f"cache_dir={one / 'cache'}")
    two = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    log = tmp_path / "run" / "mix.jsonl"

    def has(lines: int) -> Callable[[str], bool]:
        return lambda said: log.is_file() and log.read_text().count("\n") > lines

    done = call(*PYTHON, "train", *given, *two, kill_after=has(8), second=True)
    assert done.returncode == 1
    assert done.stderr.count("error: Process 1 was ended by SIGKILL") == 1
    assert "Traceback" not in done.stderr
    assert done.left == []
    done = call(*PYTHON, "train", *given, *two, kill_after=has(log.read_text().count("\n") + 8), how=signal.SIGTERM)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert done.left == []
    assert log.read_text().count("\n") < 200
    done = cli("train", *given)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == list(range(1, 201))


BROKEN = """
import os
from mixalign.mixers.ama_r import AMAR


class Broken(AMAR):
    def update(self, signal, state):
        if os.environ.get("RANK") == "1":
            raise ZeroDivisionError("only here")
        return super().update(signal, state)
"""


@pytest.mark.long
def test_the_error_of_a_second_process_is_shown(call, tiny, tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    given = settings(tiny, tmp_path, "mixer._target_=broken.Broken", "trainer=ddp", "trainer.devices=2")
    own = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "MIXALIGN_TARGETS": "broken.Broken"}
    done = call(*PYTHON, "train", *given, "trainer.accelerator=cpu", **own)
    assert done.returncode == 1
    assert done.left == []
    assert "process 1 ended with 1, and said at last:" in done.stderr
    assert "ZeroDivisionError: only here" in done.stderr
