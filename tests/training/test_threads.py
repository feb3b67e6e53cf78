"""How many threads a process may use, and how they wait."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mixalign.training import engine
from mixalign.training.engine import Engine, prepare_process
from mixalign.training.threads import usable_cpus

PLENTY = 1000


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A machine of 1000 cores; gives a function that writes files of control groups and counts CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(PLENTY), raising=False)

    def count(own: str, **files: str) -> int:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "groups" / name.replace("__", "/").replace("-", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return usable_cpus(tmp_path / "own", tmp_path / "groups")

    return count


@pytest.mark.parametrize(
    ("own", "files", "wanted"),
    [
        ("", {}, PLENTY),
        ("0::/", {"cpu.max": "max 100000"}, PLENTY),
        ("0::/", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/job/step", {"job__cpu.max": "200000 100000", "job__step__cpu.max": "max 100000"}, 2),
        ("0::/job/step", {"job__cpu.max": "900000 100000", "job__step__cpu.max": "400000 100000"}, 4),
        ("0::/other", {"job__cpu.max": "200000 100000"}, PLENTY),
        ("3:cpu,cpuacct:/docker/1", {"cpu__cpu.cfs_quota_us": "150000", "cpu__cpu.cfs_period_us": "100000"}, 2),
        ("3:cpu,cpuacct:/a", {"cpu__a__cpu.cfs_quota_us": "-1", "cpu__a__cpu.cfs_period_us": "100000"}, PLENTY),
        ("0::/", {"cpu.max": "1000 100000"}, 1),
        ("0::/", {"cpu.max": "nonsense"}, PLENTY),
    ],
)
def test_the_quota_of_a_container_counts(host, own, files, wanted):
    assert host(own, **files) == wanted


@pytest.mark.parametrize(
    ("threads", "usable", "said", "wanted"),
    [(None, 1, None, 1), (None, 8, None, 2), (None, 1, "2", 2), (3, 1, None, 3), (1, 8, "2", 1)],
)
def test_threads_are_those_that_were_set_else_no_more_than_may_run(monkeypatch, threads, usable, said, wanted):
    monkeypatch.setattr(engine, "usable_cpus", lambda: usable)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        prepare_process(Engine(threads=threads, allocator=False))
        assert torch.get_num_threads() == wanted
    finally:
        torch.set_num_threads(before)


LIBRARY = next((Path(torch.__file__).parent / "lib").glob("libgomp*"), None)
LOAD_IT = "import ctypes, sys; from mixalign import cli; cli._guarded('no-such-verb'); ctypes.CDLL(sys.argv[1])"


@pytest.mark.skipif(LIBRARY is None, reason="this torch brings no libgomp")
@pytest.mark.parametrize(("said", "wanted"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_openmp_hears_that_threads_that_wait_are_to_sleep(environment, said, wanted):
    """libgomp prints what it understood when it is loaded, as torch does behind the first line of a verb."""
    env = environment | {"OMP_DISPLAY_ENV": "true"} | ({"OMP_WAIT_POLICY": said} if said else {})
    command = [sys.executable, "-c", LOAD_IT, str(LIBRARY)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert f"OMP_WAIT_POLICY = '{wanted}'" in done.stderr
