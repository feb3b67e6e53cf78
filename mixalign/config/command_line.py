"""Verbs that take configuration keys: Hydra composes them, and the verb gets settings."""

import sys
from collections.abc import Callable
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mixalign.config.compose import CONF, as_today, register_resolvers, settings_of
from mixalign.config.console import quiet_libraries
from mixalign.config.folders import unused_removed
from mixalign.config.messages import user_message
from mixalign.config.settings import RunSettings

__all__ = ["NO_FOLDER", "with_settings"]

NO_FOLDER = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=console")
"""Overrides for verbs that leave no run folder."""


def with_settings(verb: Callable[[RunSettings], Any], *fixed: str) -> None:
    """Runs a function of the settings under Hydra: overrides from the command line, --help, and -m for sweeps.

    Args:
        fixed: overrides that the verb sets.

    Raises:
        Exception: what the function raises; in a sweep Hydra does, when all runs have had their turn.
    """
    register_resolvers()
    quiet_libraries()
    sys.argv[1:] = as_today(sys.argv[1:]) + list(fixed)
    refused: list[Exception] = []

    def quietly(config: DictConfig) -> Any:
        try:
            return verb(settings_of(config))
        except Exception as error:
            if user_message(error) is None or HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # in a sweep the other runs go on
            refused.append(error)  # Hydra would print all overrides before the message

    with unused_removed():
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(quietly)()
    if refused:
        raise refused[0]
