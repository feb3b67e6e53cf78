"""Multi-task alignment of language models; the mixture is decided while it trains."""

from typing import Any

__version__ = "0.2.0.dev0"  # written here only: the build, `mixalign --version` and the wheel read it
__all__ = ["train"]


def train(*overrides: str, run_dir: str) -> dict[str, Any]:
    """`mixalign train` from Python.

    Args:
        overrides: configuration keys as on the command line, such as `mixer=ama_r`.
        run_dir: the run's folder.

    Returns:
        What `eval.json` holds: results by task, their mean and the worst task.

    Raises:
        MixalignError: for anything in the configuration, the rows or the folder that cannot be used.
        Stopped: a SystemExit, when SIGTERM or Ctrl-C came, or `max_time` is over; its text says what is kept.
    """
    import time
    from pathlib import Path

    from mixalign.training.threads import wait_passively

    wait_passively()
    from mixalign.config.compose import compose_settings
    from mixalign.config.console import quiet_libraries
    from mixalign.stopping import heed, limit
    from mixalign.verbs.train import run

    began = time.time()
    quiet_libraries()
    settings = compose_settings(overrides)
    with heed(), limit(settings.seconds, began):
        return run(settings, Path(run_dir))
