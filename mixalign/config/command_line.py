"""Verbs that take configuration keys: Hydra composes them, and the verb gets settings."""

import os
import re
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from logging.config import dictConfig
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mixalign import stopping
from mixalign.config.compose import CONF, as_today, compose_config, register_resolvers, settings_of
from mixalign.config.console import quiet_libraries
from mixalign.config.first_look import SWEEP
from mixalign.config.folders import unused_removed
from mixalign.config.messages import user_message
from mixalign.config.parse import NEEDED
from mixalign.config.settings import RunSettings
from mixalign.config.sweep import judged, within_sweep
from mixalign.errors import MixalignError

__all__ = ["NO_FOLDER", "is_sweep", "with_settings"]

NO_FOLDER = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=console")
"""Overrides for verbs that leave no run folder."""

_CONSOLE = CONF / "hydra" / "job_logging" / "console.yaml"
_AGAIN = "The same command goes on from there."
_OWN = "`--config-name={}` must begin with the program's configuration: let its `defaults` list `train`, then `_self_`."


def is_sweep() -> bool:
    """Whether the command composes several configurations, `-m`."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def with_settings(
    verb: Callable[[RunSettings], Any],
    *fixed: str,
    before: Callable[[DictConfig], None] = lambda config: None,
    ended: Callable[[str], None] = lambda folder: None,
    plain: bool = False,
) -> Any:
    """Runs a function of the settings under Hydra: overrides from the command line, --help, and -m for sweeps.

    Args:
        fixed: overrides that the verb sets.
        before: may change the composed configuration, before it becomes settings.
        ended: called with the folder of a sweep whose runs are all finished.
        plain: whether the verb wants nothing of Hydra but settings, for which it would compose twice more.

    Raises:
        Exception: what the function raises; in a sweep when all runs have had their turn, see `judged`.
        Stopped: when the process was told to stop; in a sweep no further run is started.
    """
    register_resolvers()
    quiet_libraries()
    own = as_today(sys.argv[1:])
    sys.argv[1:] = sorted([*own, *fixed], key=lambda text: text not in SWEEP)  # Hydra refuses keys on both sides of it
    refused: list[Exception] = []
    began, main = time.time(), os.getpid()

    def job(config: DictConfig) -> Any:
        _check_whole(config)
        before(config)
        settings = settings_of(config)
        kept = f"what is finished is kept in {settings.cache_dir}"
        with stopping.stage("the start", kept, _AGAIN), stopping.limit(settings.seconds, began):
            return verb(settings)

    def quietly(config: DictConfig) -> Any:
        try:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                return within_sweep(partial(job, config), main)
            return job(config)
        except Exception as error:
            if user_message(error) is None or HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # in a sweep the other runs go on
            refused.append(error)  # Hydra would print all overrides before the message

    if plain and _are_plain(own):
        return job(_composed(own))
    with unused_removed(), judged(ended), _of_own_name(sys.argv[1:]):
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(quietly)()
    if refused:
        raise refused[0]


def _are_plain(arguments: Sequence[str]) -> bool:
    """Whether these are keys of ours: no option of Hydra, and nothing that it is to fill in."""
    return all(re.match(r"[^-][^=]*=|~", text) and "hydra" not in text for text in arguments)


def _composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration, with log lines on the terminal; it was composed before, when its words were looked at."""
    dictConfig(yaml.safe_load(_CONSOLE.read_text("utf-8")))
    return compose_config(overrides)


def _check_whole(config: DictConfig) -> None:
    """Refuses what a file of `--config-name` lacks.

    Raises:
        MixalignError: naming it.
    """
    name = HydraConfig.get().job.config_name if HydraConfig.initialized() else "train"
    if name != "train" and (missing := sorted(NEEDED - {str(key) for key in config})):
        raise MixalignError(f"`{missing[0]}` is missing. {_OWN.format(name)}")


@contextmanager
def _of_own_name(arguments: Sequence[str]) -> Iterator[None]:
    """Adds to what Hydra refuses under `--config-name` what such a configuration must begin with.

    Raises:
        MixalignError: in place of Hydra's error.
    """
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        parser = ArgumentParser(add_help=False)
        parser.add_argument("--config-name", "-cn")
        name = parser.parse_known_args(arguments)[0].config_name
        if name is None or isinstance(error, MissingConfigException):
            raise
        raise MixalignError(f"{user_message(error)}\n{_OWN.format(name)}") from error
