"""A process that hangs and one that dies hold nobody for long."""

import subprocess
import sys
from pathlib import Path

import pytest

from mixalign.errors import MixalignError
from mixalign.together import children
from tests.together.processes import forks, run_module

LOST = """
import os, signal, time
from mixalign.config.compose import compose_settings
from mixalign.together import children
from mixalign.together.agree import is_first, wait
from mixalign.together.start import on_all_ranks

children.GRACE = 0.5


@on_all_ranks
def job(settings):
    if not is_first():
        open("pid", "w").write(str(os.getpid()))
    wait()
    if not is_first():
        os.kill(os.getpid(), signal.SIGSTOP)
    begin = time.monotonic()
    try:
        wait()
    except RuntimeError as error:
        print(f"after {time.monotonic() - begin:.0f} s: {error}", flush=True)
    os.kill(int(open("pid").read()), signal.SIGKILL)
    time.sleep(300)  # as if it waited for a GPU


def main():
    job(compose_settings(["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.timeout=0.05"]))
"""


@pytest.mark.long
@forks
def test_nobody_waits_for_a_process_that_hangs_or_is_dead(tmp_path):
    """The second process stops, so the first one's barrier ends by `trainer.timeout`; then it dies unnoticed."""
    assert run_module(LOST, tmp_path) == 1
    out, err = ((tmp_path / name).read_text() for name in ("out", "err"))
    assert "after 3 s: " in out
    assert "Timed out waiting 3000ms" in out
    assert err.count("error: Process 1 was ended by SIGKILL: by somebody, or by the system") == 1
    assert "goes on from the last checkpoint" in err
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()
    assert not list(tmp_path.glob("mixalign-*"))


def test_a_process_that_waited_too_long_says_which_setting_it_is(tmp_path):
    with pytest.raises(MixalignError, match=r"longer than `trainer.timeout` for another one \(Timed out .*Raise it"):
        children._blame(RuntimeError("Timed out waiting 3000ms for recv\nsecond line"), [], tmp_path)


def ended(code: str) -> subprocess.Popen:
    child = subprocess.Popen([sys.executable, "-c", code])
    child.wait(60)
    return child


def test_the_error_of_another_process_takes_the_place_of_a_broken_connection(tmp_path):
    """Also that of a later process than one that lost its connection too, and while none of them has ended yet."""
    (tmp_path / "2.error").write_text("`data.root` is wrong.")
    busy = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2)]
    try:
        with pytest.raises(MixalignError, match=r"^`data.root` is wrong\.$"):
            children._blame(RuntimeError("Connection closed by peer"), busy, tmp_path)
    finally:
        for child in busy:
            child.kill()
            child.wait(60)


def test_a_process_that_was_killed_is_named_with_its_signal(tmp_path):
    killed = ended("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(MixalignError, match=r"Process 1 was ended by SIGKILL: .*Start the same command again"):
        children._blame(RuntimeError("Connection closed by peer"), [killed], tmp_path)


def test_the_last_words_of_another_process_are_added_to_the_error(tmp_path):
    (tmp_path / "1.log").write_text("\n".join(f"line {i}" for i in range(99)))
    error = RuntimeError("Connection closed by peer")
    children._blame(error, [ended("raise SystemExit(3)")], tmp_path)
    (note,) = error.__notes__
    assert note.startswith("process 1 ended with 3, and said at last:\nline 84\n")
    assert note.endswith("line 98")


def test_an_error_for_the_user_stays_as_it_is(tmp_path):
    children._blame(MixalignError("`lora.r` is 0."), [ended("raise SystemExit(3)")], tmp_path)
