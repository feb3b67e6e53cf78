"""The configuration composed in Python, without the command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mixalign.errors import MixalignError
from mixalign.pipelines.build import CONF, register_resolvers
from mixalign.pipelines.console import quiet_libraries
from mixalign.pipelines.messages import user_message
from mixalign.pipelines.overrides import with_new_tasks

__all__ = ["compose_config", "train_from_overrides"]


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The configuration of a run.

    Raises:
        MixalignError: for an unknown key or group, or a file that is not valid.
    """
    register_resolvers()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("train", overrides=with_new_tasks(overrides))
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        if (message := user_message(error)) is None:
            raise
        raise MixalignError(message) from error


def train_from_overrides(overrides: Sequence[str], run_dir: str) -> dict[str, Any]:
    from mixalign.pipelines.train import run

    quiet_libraries()
    return run(compose_config(overrides), Path(run_dir))
