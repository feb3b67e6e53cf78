"""The configuration composed by Hydra, from the command line or from Python."""

import logging
from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mixalign.config.elsewhere import CONF
from mixalign.config.messages import user_message
from mixalign.config.quote import check_whole, quoted
from mixalign.errors import MixalignError

if TYPE_CHECKING:
    from mixalign.config.settings import RunSettings

__all__ = ["CONF", "as_today", "compose_config", "compose_settings", "register_resolvers", "settings_of"]

log = logging.getLogger(__name__)

RENAMED = {
    "data.reference": "data.target",
    "trainer.fast_dev_run": "fast_dev_run",
    "trainer.max_time": "max_time",
}


def register_resolvers() -> None:
    """Adds `${or:a,b}`: a, or b when a is null."""
    OmegaConf.register_new_resolver("or", lambda a, b: b if a in (None, "None") else a, replace=True)


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The configuration with some overrides, as on the command line.

    Raises:
        MixalignError: for an unknown key or group, or a file that is not valid.
    """
    register_resolvers()
    overrides = as_today(overrides)
    try:
        return deepcopy(_composed(tuple(overrides)))
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        if (message := user_message(error)) is None:
            raise
        raise MixalignError(message) from error


@lru_cache(maxsize=1)  # a command looks at its words before it loads torch, and wants the same again
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def compose_settings(overrides: Sequence[str]) -> "RunSettings":
    """The settings of a run.

    Raises:
        MixalignError: for anything that `compose_config` or `parse` refuses.
    """
    return settings_of(compose_config(overrides))


def settings_of(config: DictConfig) -> "RunSettings":
    """The settings that a composed configuration describes.

    Raises:
        MixalignError: naming the first key that is missing, unknown or wrong.
    """
    from mixalign.config.parse import parse  # loads torch, which a misspelt key need not wait for

    if missing := sorted(OmegaConf.missing_keys(config)):
        raise MixalignError(f"`{missing[0]}` has no value, and must have one. Set it: {missing[0]}=...")
    return parse(cast(dict[str, Any], OmegaConf.to_container(config, resolve=True)))


def as_today(overrides: Sequence[str]) -> list[str]:
    """Overrides with the keys of today.

    `data.tasks.<name>...` adds a task without a `+`: data.tasks and data.target are mappings that everyone extends.
    Paths that Hydra's grammar does not take get quotes.

    Raises:
        MixalignError: for an override that cannot be read.
    """
    check_whole(overrides)
    return [_as_today(quoted(text)) for text in overrides]


def _as_today(text: str) -> str:
    for old, new in RENAMED.items():
        if text.lstrip("+~").startswith((f"{old}=", f"{old}.")):
            log.warning("`%s` is called `%s` now.", old, new)
            text = text.lstrip("+").replace(old, new, 1)
    return f"++{text}" if text.startswith(("data.tasks.", "data.target.")) else text
