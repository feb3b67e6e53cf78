"""What the processes of a sweep tell each other: a stop, what became of a run, and which warnings have been shown."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import active_children
from pathlib import Path

from mixalign.fingerprint import fingerprint

__all__ = ["announce", "came_again", "counts", "ended", "note", "shared_notes", "tell_processes"]

FOLDER = "MIXALIGN_SWEEP"  # environment variable, which the processes of a launcher get as well
STOP = "stop"
WARNING, AGAIN = "warning-", ".again"  # of the latter, a byte for each time that a warning came and was not shown


@contextmanager
def shared_notes() -> Iterator[None]:
    """Has a folder for notes while a sweep is at work; processes on other machines do without."""
    with tempfile.TemporaryDirectory(prefix="mixalign-sweep-") as folder:
        os.environ[FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[FOLDER]


def announce() -> bool:
    """Says that this process listens to signals by now; gives whether the sweep was told to stop before that."""
    _write(f"process-{os.getpid()}", "")
    return any((folder / STOP).is_file() for folder in _folder())


def tell_processes() -> None:
    """Tells the processes of a launcher to stop: those that listen by a signal, the others when they `announce`.

    One that has just been started would be ended by a signal, and joblib then ends all others without a word. Where
    none listens, no run has begun, and that is the fastest.
    """
    _write(STOP, "")
    all_of_them = [process.pid or 0 for process in active_children()]
    listening = [pid for pid in all_of_them for folder in _folder() if (folder / f"process-{pid}").is_file()]
    for pid in listening or all_of_them:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def note(number: int, kind: str) -> None:
    """Notes what became of a run, for the case that its process or the launcher does not come back."""
    _write(f"run-{number}", kind)


def ended(first: int, count: int) -> list[str]:
    """What became of some runs by their notes, in their order."""
    kinds = ["not begun"] * count
    for folder in _folder():
        for place in range(count):
            with suppress(FileNotFoundError):
                kinds[place] = (folder / f"run-{first + place}").read_text("utf-8")
    return kinds


def came_again(warning: str) -> bool:
    """Counts a warning; gives whether a run of this sweep has shown it already."""
    for folder in _folder():
        path = folder / f"{WARNING}{fingerprint({'text': warning})}"
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(warning)
        except FileExistsError:
            with path.with_suffix(AGAIN).open("ab") as file:
                file.write(b".")
            return True
        except OSError:  # a full disk
            return False
    return False


def counts() -> dict[str, int]:
    """Warning that came more than once -> how often it came."""
    return {
        path.with_suffix("").read_text("utf-8"): 1 + path.stat().st_size
        for folder in _folder()
        for path in sorted(folder.glob(f"{WARNING}*{AGAIN}"))
    }


def _folder() -> list[Path]:
    """The folder, or none on another machine."""
    path = os.environ.get(FOLDER)
    return [Path(path)] if path and os.path.isdir(path) else []


def _write(name: str, text: str) -> None:
    for folder in _folder():
        part = folder / f".{name}"
        with suppress(OSError):  # a note is worth no run
            part.write_text(text, "utf-8")
            part.replace(folder / name)
