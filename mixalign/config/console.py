"""Lines on the terminal that do not tear progress bars."""

import logging
import os
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from mixalign.fingerprint import fingerprint
from mixalign.terminal import print_line

__all__ = ["ConsoleHandler", "each_warning_once", "quiet_libraries"]

SHOWN = "MIXALIGN_SHOWN"  # environment variable, which the workers of a launcher get as well: a folder
AGAIN = ".again"  # of a warning's file there: a byte for each time that it came and was not shown
START = 100  # letters of a warning that name it


class ConsoleHandler(logging.Handler):
    """Writes log lines above the progress bar, to stderr; warnings say so, and come once in a sweep."""

    def emit(self, record: logging.LogRecord) -> None:
        text, warns = self.format(record), record.levelno == logging.WARNING
        if not (warns and _was_shown(text)):
            print_line(f"warning: {text}" if warns else text)


@contextmanager
def each_warning_once() -> Iterator[None]:
    """Within, for all runs of a sweep, the terminal shows a warning once, and at the end how often it came.

    Log files have it every time.
    """
    with TemporaryDirectory(prefix="mixalign-") as folder:
        os.environ[SHOWN] = folder
        try:
            yield
        finally:
            del os.environ[SHOWN]
            for path in sorted(Path(folder).glob(f"*{AGAIN}")):
                start = textwrap.shorten(path.with_suffix("").read_text("utf-8"), START, placeholder=" ...")
                print_line(f"shown once, and came {1 + path.stat().st_size} times in this sweep: {start}")


def _was_shown(text: str) -> bool:
    """Whether a run of this sweep has shown a warning already; counts it."""
    folder = os.environ.get(SHOWN)
    if folder is None:
        return False
    path = Path(folder) / fingerprint({"warning": text})
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        return False
    except FileExistsError:
        with path.with_suffix(AGAIN).open("ab") as file:
            file.write(b".")
        return True
    except OSError:  # of another machine, or full
        return False


def quiet_libraries() -> None:
    """Turns off bars and warnings of the libraries that tell a user nothing about the run."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    for message in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists and is not empty.*",  # when a run goes on
        ".*callbacks used to create the checkpoint need to be provided.*",  # one may be left out with `resume`
        ".*isinstance\\(treespec, LeafSpec\\).*",
        ".*is_gradient_checkpointing.*",
        ".*in eval mode at the start of training.*",  # on_fit_start puts the model in training mode
        ".*is smaller than the logging interval.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
