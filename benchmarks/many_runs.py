"""Many runs over seeds, as arena.py and paper.py train them: several processes, time left, and nothing trained twice.

A run is finished when its folder has a mark, which holds the fingerprint of what it was made from. A command that was
killed goes on: finished runs are kept, and one in the middle goes on from its last checkpoint.
"""

import argparse
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixalign.errors import MixalignError
from mixalign.files import write_json

__all__ = ["Unit", "add_arguments", "is_finished", "plain_name", "status_of", "work", "write_figures"]

LOOKED_AT = 5.0  # seconds between two looks at what is finished


@dataclass(frozen=True)
class Unit:
    """Runs on one seed of a set-up, one after the other: they share what is made on the way.

    Attributes:
        runs: label -> overrides of its run.
        common: overrides of all of them.
        made_by: fingerprint of the set-up.
        source: where the set-up is described, for messages.
        mark: file in a run's folder that says that it is finished.
        trainings: label -> how long a run takes, in trainings of the same length; 1 where it is left out.
    """

    setup: str
    seed: int
    runs: Mapping[str, Sequence[str]]
    common: Sequence[str]
    folder: Path
    made_by: str
    source: str
    mark: str
    trainings: Mapping[str, float]

    def place(self, label: str) -> Path:
        return self.folder / self.setup / f"{plain_name(label)}_seed{self.seed}"

    def overrides(self, label: str) -> list[str]:
        """Of one run; a subclass may read what earlier ones found."""
        return [*self.common, *self.runs[label]]

    def tidy(self, place: Path) -> None:
        """Removes what the figures do not need from a finished run."""
        for name in ("checkpoints", "model", "base", "rounds", "proxy"):
            shutil.rmtree(place / name, ignore_errors=True)


def plain_name(label: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in label)


def work(units: Sequence[Unit], jobs: int, folder: Path) -> dict[str, str]:
    """Trains what is missing, and says how long that may take. Returns what failed, and why."""
    missing = [one for one in units if not all(is_finished(one, label) for label in one.runs)]
    if not missing:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    print(
        f"{len(missing)} of {len(units)} seeds of set-ups are to be trained; what is said: {folder}/*.log", flush=True
    )
    failed: dict[str, str] = {}
    context = multiprocessing.get_context("spawn")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(folder,)) as pool:
        futures: set[Future[dict[str, str]]] = {pool.submit(_train, one) for one in missing}
        clock = _Clock(missing)
        try:
            while futures:
                done, futures = wait(futures, LOOKED_AT, FIRST_COMPLETED)
                for future in done:
                    failed |= future.result()
                clock.tell()
        except BaseException:
            for process in list(pool._processes.values()):
                process.terminate()  # each saves itself, and the same command goes on
            pool.shutdown(wait=False, cancel_futures=True)
            print(f"stopped; the same command goes on with what is in {folder}", file=sys.stderr)
            raise
    return failed


class _Clock:
    """Says of every run that is finished how much time is left."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self.all = {(one.place(label) / one.mark): (one, label) for one in units for label in one.runs}
        self.told = {mark for mark in self.all if mark.is_file()}
        self.begun = time.monotonic()
        self.before = self._trainings(self.told)

    def _trainings(self, marks: set[Path]) -> float:
        return sum(one.trainings.get(label, 1.0) for one, label in (self.all[mark] for mark in marks))

    def tell(self) -> None:
        for mark in [mark for mark in self.all if mark not in self.told and mark.is_file()]:
            self.told.add(mark)
            one, label = self.all[mark]
            made = self._trainings(self.told) - self.before
            left = (self._trainings(set(self.all)) - self.before - made) * (time.monotonic() - self.begun) / made
            done = f"[{len(self.told)}/{len(self.all)}] {one.setup}, {label}, seed {one.seed}"
            print(f"{done}; about {left / 60:.0f} min left", flush=True)


def _begin(folder: Path) -> None:
    """In each process that trains: what it says goes into a file, and it ends with the one that started it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)  # runs go on from their last checkpoint

    threading.Thread(target=end, daemon=True).start()
    log = (folder / f"{os.getpid()}.log").open("a")
    os.dup2(log.fileno(), sys.stdout.fileno())
    os.dup2(log.fileno(), sys.stderr.fileno())


def _train(one: Unit) -> dict[str, str]:
    """Trains the runs of a seed that are missing. Returns what failed, and why."""
    from mixalign import train

    failed = {}
    for label in _missing(one):
        place = one.place(label)
        try:
            train(*one.overrides(label), run_dir=str(place))
        except MixalignError as error:
            failed[f"{one.setup}, {label}, seed {one.seed}"] = str(error)
            continue
        except SystemExit:  # it was told to stop, and has saved itself: no other seed begins here
            os._exit(1)
        one.tidy(place)
        (place / one.mark).write_text(one.made_by)
    return failed


def _missing(one: Unit) -> Iterator[str]:
    return (label for label in one.runs if not is_finished(one, label))


def is_finished(one: Unit, label: str) -> bool:
    """Whether this run is finished.

    Raises:
        MixalignError: when it was made from another set-up of the same name.
    """
    mark = one.place(label) / one.mark
    if not mark.is_file():
        return False
    if mark.read_text() != one.made_by:
        raise MixalignError(
            f"{mark.parent} holds a run of another version of {one.source}, or with other --overrides. Give "
            "another folder (--runs), or delete that one."
        )
    return True


def add_arguments(parser: argparse.ArgumentParser, runs: Path, results: Path) -> None:
    """What the command line of both has."""
    parser.add_argument("--jobs", type=int, default=2, help="processes that train at a time")
    parser.add_argument("--runs", type=Path, default=runs, help="finished runs in here are kept")
    parser.add_argument("--gather", action="store_true", help="train nothing: the tables of what is finished")
    parser.add_argument("--json", type=Path, default=results)
    parser.add_argument("--overrides", nargs="+", default=[], help="configuration keys of every run")


def write_figures(path: Path, results: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, results)
    print(f"figures: {path}")


def status_of(failed: Mapping[str, str]) -> int:
    """Says what failed and why; the exit status."""
    for what, reason in failed.items():
        print(f"failed: {what}: {reason}", file=sys.stderr)
    return 1 if failed else 0
