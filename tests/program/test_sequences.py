"""Random sequences of what happens to a run: it ends like an undisturbed one, or says why it does not.

`make sequences` tries 200 of them; `make test-all` some.
"""

import json
import os
import re
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from mixalign.data.generated import generate

SEQUENCES = int(os.environ.get("MIXALIGN_SEQUENCES", "6"))
COMPARED = ("mix.jsonl", "mixture.json", "eval.json", "metrics.csv")
TASKS = ("helpful", "reverse", "compare")
KINDS = {
    "ama_s": ("mixer=ama_s",),
    "uniform": ("mixer=uniform", "specialists.train=always"),
    "ama_r, LoRA": ("mixer=ama_r", "lora=default", "lora.r=2"),
}
EVERY = ("val_every=2", "save_every=1", "log_every=1")
LIMIT = 120.0  # seconds of a command


@dataclass(frozen=True)
class Wanted:
    """What a command asks for, as far as it decides the result."""

    kind: str
    steps: int = 4
    lr: float = 0.001
    rows: int = 0  # version of the rows of one task
    order: tuple[str, ...] = TASKS


class Place:
    """Where commands run: their rows, their cache, and undisturbed runs to compare with."""

    def __init__(self, folder: Path, start: Any, tiny_local: Any) -> None:
        self.folder, self._start, self._tiny = folder, start, tiny_local
        self.cache = folder / "cache"
        self.calm: dict[Wanted, Path] = {}
        self.numbers = count()

    def new(self, name: str) -> Path:
        return self.folder / f"{name}_{next(self.numbers)}"

    def write(self, data: Path, rows: int) -> None:
        """The rows of every task; another version of them differs in one row of the last task."""
        data.mkdir(exist_ok=True)
        for task in TASKS:
            examples = generate(task, 24, "train", 0)
            if rows and task == TASKS[-1]:
                examples = generate(task, 24, "train", rows)[:1] + examples[1:]
            (data / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in examples))

    def start(self, wanted: Wanted, run: Path, data: Path) -> Any:
        tasks = [f"data.tasks.{task}.path={data / task}.jsonl" for task in wanted.order]
        asked = (f"steps={wanted.steps}", f"optimizer.lr={wanted.lr}", f"run_dir={run}", f"cache_dir={self.cache}")
        return self._start("train", *self._tiny(*tasks, *EVERY, *KINDS[wanted.kind], *asked))

    def undisturbed(self, wanted: Wanted) -> Path:
        """The folder of a run that nothing happened to."""
        if wanted not in self.calm:
            run, data = self.new("calm"), self.new("rows")
            self.write(data, wanted.rows)
            command = self.start(wanted, run, data)
            assert command.wait(LIMIT) == 0, command.stderr
            self.calm[wanted] = run
        return self.calm[wanted]


class Sequences(RuleBasedStateMachine):
    """One run folder, and what happens to it."""

    place: Place

    def __init__(self) -> None:
        super().__init__()
        self.run, self.data = self.place.new("run"), self.place.new("rows")
        self.begun: Wanted | None = None

    @initialize(kind=st.sampled_from(list(KINDS)), steps=st.sampled_from([4, 6]))
    def ask(self, kind: str, steps: int) -> None:
        self.wanted = Wanted(kind, steps)
        self.place.write(self.data, 0)

    @rule()
    def train(self) -> None:
        self._ended(self._start())

    @rule(moment=st.sampled_from(["start", "claim", "step 1", "step 3", "checkpoint", "export"]))
    def kill(self, moment: str) -> None:
        command = self._start()
        self._wait_for(command, moment)
        with suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)
        if command.wait(LIMIT) == -signal.SIGKILL:
            self._look()
        else:
            self._ended(command)

    @rule(moment=st.sampled_from(["start", "claim", "step 1", "step 3", "export"]))
    def terminate(self, moment: str) -> None:
        command = self._start()
        self._wait_for(command, moment)
        with suppress(ProcessLookupError):
            command.send_signal(signal.SIGTERM)
        code = command.wait(LIMIT)
        if code in (143, -signal.SIGTERM):  # the latter before the program runs
            assert code < 0 or "stopped by SIGTERM" in command.stderr, command.stderr
            self._look()
        else:
            self._ended(command)

    @rule()
    def train_twice_at_once(self) -> None:
        """Whichever is first trains, and the other is kept out; one may begin when the other has ended."""
        commands = [self._start()]
        self._wait_for(commands[0], "claim")
        commands.append(self._start())
        for command in commands:
            command.wait(LIMIT)
        kept_out = [command for command in commands if "is in use by another command" in command.stderr]
        assert len(kept_out) < 2
        for command in kept_out:
            assert command.wait(LIMIT) == 1
            (other,) = (one for one in commands if one is not command)
            assert f"process {other.pid} on" in command.stderr or "not say its name yet" in command.stderr
        for command in commands:
            if command not in kept_out:
                self._ended(command)

    @rule()
    def move(self) -> None:
        if self.run.exists():
            self.run, old = self.place.new("moved"), self.run
            old.rename(self.run)

    @rule()
    def empty_the_cache(self) -> None:
        shutil.rmtree(self.place.cache, ignore_errors=True)

    @rule(rows=st.integers(0, 1))
    def edit_rows(self, rows: int) -> None:
        self.wanted = replace(self.wanted, rows=rows)
        self.place.write(self.data, rows)

    @rule(lr=st.sampled_from([0.001, 0.002]))
    def change_rate(self, lr: float) -> None:
        self.wanted = replace(self.wanted, lr=lr)

    @rule(order=st.permutations(TASKS))
    def reorder_tasks(self, order: list[str]) -> None:
        self.wanted = replace(self.wanted, order=tuple(order))

    @rule(steps=st.sampled_from([4, 6]))
    def change_steps(self, steps: int) -> None:
        self.wanted = replace(self.wanted, steps=steps)

    @rule()
    @precondition(lambda self: self.begun is not None)
    def tear_the_checkpoint(self) -> None:
        path = self.run / "checkpoints" / "last.ckpt"
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-100])

    def teardown(self) -> None:
        """Once what was changed is put back, the run ends as it would have without all that."""
        if hasattr(self, "wanted"):
            self.wanted = self.begun or self.wanted
            self.place.write(self.data, self.wanted.rows)
            self._ended(self._start())
            assert (self.run / "eval.json").is_file()

    def _start(self) -> Any:
        return self.place.start(self.wanted, self.run, self.data)

    def _wait_for(self, command: Any, moment: str) -> None:
        """Until a command is at some point, or has ended."""
        before = self._lines() if not (self.run / "eval.json").is_file() else 0
        there = {
            "start": lambda: True,
            "claim": lambda: (self.run / "config.yaml").is_file(),
            "step 1": lambda: self._lines() > before,
            "step 3": lambda: self._lines() >= 3,
            "checkpoint": lambda: any((self.run / "checkpoints").glob(".*")),
            "export": lambda: (self.run / "model").is_dir(),
        }[moment]
        end = time.monotonic() + LIMIT
        while command.poll() is None and not there() and time.monotonic() < end:
            time.sleep(0.002)

    def _lines(self) -> int:
        path = self.run / "mix.jsonl"
        return path.read_bytes().count(b"\n") if path.is_file() else 0

    def _look(self) -> None:
        """What the folder says was begun."""
        path = self.run / "config.yaml"
        if path.is_file():
            steps = yaml.safe_load(path.read_text())["steps"]
            self.begun = replace(self.begun or self.wanted, steps=steps)

    def _ended(self, command: Any) -> None:
        """A command that was not stopped has a result that is what it says, or a reason."""
        code = command.wait(LIMIT)
        assert "Traceback" not in command.stderr, command.stderr
        if reasons := self._reasons():
            assert code == 1, (reasons, command.stdout, command.stderr)
            message = command.stderr.partition("error: ")[2]
            assert any(reason in message for reason in reasons), (reasons, command.stderr)
            return
        assert code == 0, command.stderr
        self._look()
        assert self.begun is not None
        calm = self.place.undisturbed(self.begun)
        weights = sorted(path.relative_to(calm) for path in (calm / "model").glob("*.safetensors"))
        assert weights
        for name in (*COMPARED, *weights):
            assert (self.run / name).read_bytes() == (calm / name).read_bytes(), (name, self.run, calm)
        assert re.search(r"run folder: ", command.stdout), command.stdout

    def _reasons(self) -> list[str]:
        """Why the run has to be refused; none when it may not be."""
        if self.begun is None:
            return []
        reasons = []
        if self.wanted.lr != self.begun.lr:
            reasons += ["optimizer.lr"]
        if self.wanted.rows != self.begun.rows:
            reasons += [f"`{TASKS[-1]}`"]
        if self.wanted.steps < self.begun.steps:
            reasons += ["steps"]
        return reasons


@pytest.mark.long
@pytest.mark.timeout(100 * SEQUENCES + 200)
def test_nothing_is_silent_whatever_happens_to_a_run(start, tiny_local, tmp_path):
    machine = type("OneRun", (Sequences,), {"place": Place(tmp_path, start, tiny_local)})
    quiet = settings(
        max_examples=SEQUENCES,
        stateful_step_count=6,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=quiet)
