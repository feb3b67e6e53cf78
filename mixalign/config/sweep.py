"""A sweep as a whole: which of its runs are finished, failed or were stopped, and how it ends."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, filter_overrides

from mixalign import stopping
from mixalign.config.console import show_counts
from mixalign.config.messages import user_message
from mixalign.config.sweep_notes import announce, note, shared_notes, tell_processes
from mixalign.config.sweep_notes import ended as by_notes
from mixalign.errors import MixalignError, Stopped

__all__ = ["Left", "judged", "within_sweep"]

KINDS = ("finished", "failed", "stopped", "not begun")


@dataclass(frozen=True)
class Left:
    """What a run of a sweep gives that did not end by itself, in a process of a launcher.

    Attributes:
        text: of the stop; empty for a run that did not begin.
        code: exit status.
    """

    text: str
    code: int


def within_sweep(job: Callable[[], Any], main: int) -> Any:
    """One run of a sweep: in the process `main` a stop ends the sweep; in one of a launcher it is handed over.

    Args:
        main: number of the process that the user started.
    """
    if os.getpid() == main:
        return job()
    number = int(HydraConfig.get().job.num)
    became = "stopped"
    try:
        stopping.heed_for_good()
        if announce() or stopping.requested():
            became = "not begun"
            with suppress(OSError):  # Hydra has made it, and nothing is in it
                Path(HydraConfig.get().runtime.output_dir).rmdir()
            return Left("", 0)
        note(number, became)
        stopping.release()
        result = job()
        became = "finished"
        return result
    except Stopped as stop:
        return Left(stop.text, int(stop.code or 0))
    except Exception:
        became = "failed"
        raise
    finally:
        stopping.hold()  # between two runs
        note(number, became)


@contextmanager
def judged(ended: Callable[[str], None] = lambda folder: None) -> Iterator[None]:
    """Has sweeps in it show each warning once, and end with what became of each run.

    Args:
        ended: called with the folder of a sweep whose runs are all finished.

    Raises:
        MixalignError: naming every run that failed, with its message. A defect of ours is raised as it is.
        Stopped: when the sweep was stopped; no further run was started.
    """
    make = Plugins.instantiate_launcher

    def made(self: Plugins, *args: Any, **kwargs: Any) -> Any:
        launcher: Any = make(self, *args, **kwargs)
        launcher.launch = _Launch(launcher, launcher.launch, ended)
        within.enter_context(shared_notes())
        within.callback(show_counts)
        return launcher

    Plugins.instantiate_launcher = made  # type: ignore[method-assign]
    try:
        with ExitStack() as within:
            yield
    finally:
        Plugins.instantiate_launcher = make  # type: ignore[method-assign]


class _Launch:
    """`launch` of a launcher of Hydra."""

    def __init__(self, launcher: Any, launch: Callable[..., Sequence[JobReturn]], ended: Callable[[str], None]) -> None:
        self.launcher, self.launch, self.ended = launcher, launch, ended

    def __call__(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        folder = self.launcher.config.hydra.sweep.dir
        again = f"The same command with run_dir={folder} goes on from there."
        with stopping.stage("the sweep", f"what is finished is kept in {folder}", again):
            results = self._launched(job_overrides, initial_job_idx)
        self.ended(folder)
        return results

    def _launched(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        names = _names(job_overrides, initial_job_idx)
        ended: list[str] = []
        kind = type(self.launcher).__name__
        if kind == "BasicLauncher":
            self.launcher.task_function = _noted(self.launcher.task_function, ended)
        elif kind == "JoblibLauncher":
            stopping.hold(tell_processes)  # each run saves itself, and all of them come back
        try:
            results = self.launch(job_overrides, initial_job_idx=initial_job_idx)
        except Stopped as stop:
            raise Stopped(f"{stop.text} {_became(names, ended)}", int(stop.code or 0)) from None
        except Exception:
            if not stopping.requested():
                raise
            told = stopping.stopped()  # a process was ended by the same signal, and the others with it
            became = _became(names, by_notes(initial_job_idx, len(names)))
            raise Stopped(f"{told.text} {became}", int(told.code or 0)) from None
        finally:
            stopping.release()
        _raise_stop(names, results)
        if "BasicSweeper" in str(self.launcher.config.hydra.sweeper.get("_target_")):
            _raise_failures(names, results)  # others, which search, may go on without a run
        return results


def _names(job_overrides: Sequence[Sequence[str]], first: int) -> list[str]:
    """Number of each run, and the overrides that not all of them have."""
    shown = [[text for text in filter_overrides(given)] for given in job_overrides]
    shared = set(shown[0]).intersection(*shown)
    own = [" ".join(text for text in given if text not in shared) for given in shown]
    return [f"{number} ({text})" if text else f"{number}" for number, text in enumerate(own, first)]


def _noted(task: Callable[[Any], Any], ended: list[str]) -> Callable[[Any], Any]:
    """Notes how each run ends, which is lost when a stop ends the launcher."""

    def noted(config: Any) -> Any:
        ended.append("stopped")
        try:
            result = task(config)
        except Exception:
            ended[-1] = "failed"
            raise
        ended[-1] = "finished"
        return result

    return noted


def _raise_stop(names: list[str], results: Sequence[JobReturn]) -> None:
    """Raises when a process of a launcher was told to stop."""
    ended, stops = [], []
    for result in results:
        value = result._return_value
        kind = "failed" if result.status == JobStatus.FAILED else "finished"
        if isinstance(value, Left):
            kind = "stopped" if value.text else "not begun"
            stops += [Stopped(value.text, value.code)] * bool(value.text)
        ended.append(kind)
    if stops or stopping.requested():
        stop = stops[0] if stops else stopping.stopped()
        raise Stopped(f"{stop.text} {_became(names, ended)}", int(stop.code or 0))


def _became(names: list[str], ended: Sequence[str]) -> str:
    """Which runs are finished, failed, were stopped, and did not begin.

    Args:
        ended: of the first runs, what became of them.
    """
    kinds = [*ended, *["not begun"] * (len(names) - len(ended))]
    runs = {kind: ", ".join(n for n, k in zip(names, kinds, strict=True) if k == kind) for kind in KINDS}
    parts = [f"{kind}: {which}" for kind, which in runs.items() if which]
    return f"The sweep ends here. Of its {len(names)} runs, {'; '.join(parts)}."


def _raise_failures(names: list[str], results: Sequence[JobReturn]) -> None:
    """Raises when a run failed: all messages in one, or the first defect with the others named."""
    failed = {
        name: result._return_value
        for name, result in zip(names, results, strict=True)
        if result.status == JobStatus.FAILED
    }
    if not failed:
        return
    messages = [f"{name}: {user_message(error) or repr(error)}" for name, error in failed.items()]
    text = "\n".join([f"{len(failed)} of {len(names)} runs failed; the others are finished.", *messages])
    for error in failed.values():
        if user_message(error) is None:
            error.add_note(text)
            raise error
    raise MixalignError(text)
