"""Multi-task alignment of language models; the mixture is decided while it trains."""

from typing import Any

__version__ = "0.1.0"
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
    """
    from mixalign.pipelines.api import train_from_overrides

    return train_from_overrides(overrides, run_dir)
