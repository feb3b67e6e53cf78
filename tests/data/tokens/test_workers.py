"""Workers change the time of tokenisation and nothing else."""

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing import active_children
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from mixalign.data.dataset import ARRAYS
from mixalign.data.tokens import tokenise as module
from mixalign.data.tokens.tokenise import tokenise
from mixalign.errors import MixalignError
from mixalign.models.tiny import CHAT_TEMPLATE, byte_tokenizer

USER = {"role": "user", "content": "hi"}
ANSWER, MORE = {"role": "assistant", "content": "yo"}, {"role": "assistant", "content": "no"}
STANDARD = [{"prompt": f"{n}=", "chosen": "x" * (n % 30 + 1), "rejected": "y"} for n in range(1500)]
CHATS = [{"prompt": [USER], "chosen": [{**ANSWER, "content": f"{n}"}], "rejected": [MORE]} for n in range(1200)]
TEMPLATE = "{% if messages[-1].content == 'bad' %}{{ raise_exception('bad turn') }}{% endif %}" + CHAT_TEMPLATE


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def run(examples, tokenizer, many, max_length=100):
    return tokenise(examples, tokenizer, task="maths", form="preference", max_length=max_length, workers=many)


@pytest.mark.long
def test_workers_give_the_same_bits(tokenizer):
    rows = [*STANDARD, *CHATS]
    (serial, wanted), (parallel, found) = (run(rows, tokenizer, many, max_length=24) for many in (1, 2))
    assert found == wanted
    assert wanted.dropped_long_prompt > 0
    assert wanted.truncated > 0
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(parallel, name), getattr(serial, name))
        assert getattr(parallel, name).dtype == getattr(serial, name).dtype


@pytest.mark.long
def test_workers_give_the_same_errors(tokenizer):
    bad = {"prompt": [{**USER, "content": "bad"}], "chosen": [ANSWER], "rejected": [MORE]}
    rows = [*STANDARD, *CHATS]
    rows[1999], rows[2600] = bad, {"prompt": "a", "completion": "b"}
    said = []
    for many in (1, 2):
        with pytest.raises(MixalignError) as caught:
            run(rows, tokenizer, many)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "Task `maths` (train): the chat template refuses row 2000: bad turn" in said[0]


SCRIPT = """
print("script")
import pickle, sys
from mixalign.data.tokens.tokenise import tokenise
tokenizer, rows = pickle.load(open(sys.argv[1], "rb"))
print(tokenise(rows, tokenizer, task="maths", form="preference", max_length=99, workers=2)[1].kept)
"""


@pytest.mark.long
def test_workers_do_not_run_the_script_that_started_them(tmp_path):
    """Which would start workers of its own where it has no `if __name__ == "__main__"`."""
    script, job = tmp_path / "script.py", tmp_path / "job"
    script.write_text(SCRIPT)
    job.write_bytes(pickle.dumps((byte_tokenizer(), STANDARD)))
    done = subprocess.run([sys.executable, script, job], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.split() == ["script", "1500"]


def end(find, found: list[int]) -> None:
    """Kills the first process that is found."""
    while not (pids := find()):
        time.sleep(0.01)
    found += pids
    os.kill(pids[0], signal.SIGKILL)


KILLED = r"Task `maths` \(train\): one of the 2 processes .* `data.workers`"


@pytest.mark.timeout(60)
def test_a_worker_that_is_killed_is_one_message(tokenizer):
    found: list[int] = []
    killer = Thread(target=end, args=(lambda: [child.pid for child in active_children()], found), daemon=True)
    killer.start()
    with pytest.raises(MixalignError, match=KILLED):
        run([*STANDARD, *CHATS], tokenizer, 2)
    killer.join(60)
    assert active_children() == []


@pytest.mark.long
@pytest.mark.timeout(120)
def test_whenever_a_worker_is_killed(tokenizer):
    """While it starts, has a chunk, sends one or is idle: the run ends with that message, or was done before."""
    rows = [*STANDARD, *CHATS] * 2
    wanted, ends = run(rows, tokenizer, 1)[1], []
    for delay in np.linspace(0, 2.5, 8):

        def kill(delay=delay):
            time.sleep(delay)
            for child in active_children()[:1]:
                os.kill(child.pid, signal.SIGKILL)

        killer = Thread(target=kill)
        killer.start()
        try:
            assert run(rows, tokenizer, 2)[1] == wanted
            ends.append("done")
        except MixalignError as error:
            ends.append(str(error))
        killer.join(60)
        assert active_children() == []
    assert all(end == "done" or re.match(KILLED, end) for end in ends)
    assert set(ends) != {"done"}


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's list of processes")
def test_workers_end_with_the_process_that_started_them(tmp_path):
    """Killed while they have rows for minutes."""
    script, job = tmp_path / "script.py", tmp_path / "job"
    script.write_text(SCRIPT.replace("rows, token", "1000 * rows, token"))
    job.write_bytes(pickle.dumps((byte_tokenizer(), STANDARD)))
    process = subprocess.Popen([sys.executable, script, job], stdout=subprocess.DEVNULL)
    try:
        while len(started := children_of(process.pid)) < 3:  # two workers, and one that cleans up after them
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait(60)
    end = time.monotonic() + 30
    while any(map(is_alive, started)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(is_alive, started))


def test_workers_do_without_torch():
    code = "import sys, mixalign.data.tokens.workers\nprint([n for n in ('torch', 'lightning') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200)
    assert done.stdout.split() == ["[]"]


@pytest.mark.parametrize("many", [0, -1, 1.5, "two"])
def test_a_number_of_workers_is_positive(many):
    with pytest.raises(MixalignError, match=r"`data.workers` is .*whole number from 1 on, or null"):
        run(STANDARD[:1], byte_tokenizer(), many)


@pytest.mark.parametrize(
    ("many", "rows", "wanted"),
    [(None, 100, 1), (None, 19_999, 1), (None, 20_000, 2), (None, 10**6, 4), (3, 10**6, 3), (8, 2000, 2), (2, 0, 1)],
)
def test_there_is_a_worker_for_each_ten_thousand_rows(monkeypatch, many, rows, wanted):
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda process: set(range(4)), raising=False)
    assert module._num_workers(many, rows, byte_tokenizer()) == wanted


def test_a_class_that_a_new_process_cannot_import_stays_in_this_one():
    assert module._num_workers(None, 10**6, object()) == 1
