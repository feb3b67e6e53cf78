"""Lines on the terminal that do not tear progress bars."""

import logging
import textwrap
import warnings

from mixalign.config.sweep_notes import came_again, counts
from mixalign.terminal import print_line

__all__ = ["ConsoleHandler", "log_to_console", "quiet_libraries", "show_counts"]

START = 100  # letters of a warning that name it


class ConsoleHandler(logging.Handler):
    """Writes log lines above the progress bar, to stderr; warnings say so, and come once in a sweep."""

    def emit(self, record: logging.LogRecord) -> None:
        text, warns = self.format(record), record.levelno == logging.WARNING
        if not (warns and came_again(text)):
            print_line(f"warning: {text}" if warns else text)


def log_to_console() -> None:
    """Has our log lines shown by a verb that does not run under Hydra, which sets this up for the others."""
    ours = logging.getLogger("mixalign")
    if not any(isinstance(handler, ConsoleHandler) for handler in (*ours.handlers, *logging.getLogger().handlers)):
        ours.addHandler(ConsoleHandler(logging.INFO))
    ours.setLevel(logging.INFO)


def show_counts() -> None:
    """At the end of a sweep, says how often each warning came that was shown once; log files have it every time."""
    for text, count in counts().items():
        start = textwrap.shorten(text, START, placeholder=" ...")
        print_line(f"shown once, and came {count} times in this sweep: {start}")


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
    for package in ("lightning.pytorch", "lightning.fabric"):
        for name in (package, f"{package}.utilities.rank_zero"):  # a later import of Lightning sets the package's anew
            logging.getLogger(name).setLevel(logging.ERROR)
