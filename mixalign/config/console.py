"""Lines on the terminal that do not tear progress bars."""

import logging
import warnings

from mixalign.terminal import print_line

__all__ = ["ConsoleHandler", "quiet_libraries"]


class ConsoleHandler(logging.Handler):
    """Writes log lines above the progress bar, to stderr; warnings say so."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno == logging.WARNING else ""
        print_line(prefix + self.format(record))


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
