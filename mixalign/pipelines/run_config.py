"""The configuration that a run has written into its folder."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mixalign.errors import MixalignError

__all__ = ["read_config"]

NEEDED = {"data", "engine", "lora", "mixer", "model", "objective", "optimizer", "reference", "specialists", "trainer"}


def read_config(run_dir: Path) -> DictConfig:
    """Reads `config.yaml` of a run folder.

    Raises:
        MixalignError: when there is none, or it is no configuration of a run.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise MixalignError(f"{run_dir} is no run folder: it has no config.yaml.")
    cure = "Restore it from a copy, or train again in another `run_dir`."
    try:
        found: Any = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise MixalignError(f"{path} cannot be read: {' '.join(str(error).split())} {cure}") from error
    if not isinstance(found, DictConfig):
        raise MixalignError(f"{path} holds a list, and not the configuration of a run. {cure}")
    if missing := sorted(NEEDED - {str(key) for key in found}):
        raise MixalignError(
            f"{path} has no `{missing[0]}`: another version of mixalign wrote it, or it was changed. {cure}"
        )
    return found
