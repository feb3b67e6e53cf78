"""From configuration to objects: where the files lie, what may be built, and what is written beside a run."""

import os
from pathlib import Path
from typing import Any, cast

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mixalign.errors import MixalignError
from mixalign.mixers.base import Mixer
from mixalign.mixers.wrapped import wrap

__all__ = ["CONF", "build", "build_mixer", "plain", "register_resolvers"]

_PACKAGE = Path(__file__).resolve().parent.parent
CONF = next(p for p in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if (p / "train.yaml").is_file())
"""The folder of the configuration: inside the package in a wheel, beside it in a checkout."""

ALLOWED = ("mixalign.", "lightning.", "torch.", "transformers.", "peft.", "torchmetrics.")


def register_resolvers() -> None:
    """Adds `${or:a,b}`: a, or b when a is null."""
    OmegaConf.register_new_resolver("or", lambda a, b: b if a in (None, "None") else a, replace=True)


def build(node: Any, *drop: str, **arguments: Any) -> Any:
    """The object that a configuration node describes, or None for an empty node.

    Args:
        node: a mapping with `_target_`; its other keys are the constructor's arguments.
        drop: keys that only the configuration reads.
        arguments: further arguments.

    Raises:
        MixalignError: for a target outside the known packages, or arguments that it refuses.
    """
    settings = plain(node)
    if not settings:
        return None
    target = settings.get("_target_", "")
    if not target.startswith(ALLOWED) and target not in _own_targets():
        raise MixalignError(
            f"`_target_: {target}` may not be built: only {', '.join(a + '*' for a in ALLOWED)} may. "
            "Name your own class in the environment variable MIXALIGN_TARGETS (comma-separated) to allow it."
        )
    for key in drop:
        settings.pop(key, None)
    try:
        return instantiate(settings | arguments, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, MixalignError):
            raise error.__cause__ from None
        raise MixalignError(f"`{target}` cannot be built: {error.__cause__ or error}") from error


def build_mixer(node: DictConfig) -> Mixer:
    """The rule of a configuration, with `mixer.wrap` around it."""
    return wrap(build(node, "name", "wrap"), plain(node.wrap))


def _own_targets() -> list[str]:
    """Classes outside the known packages that the user allows."""
    return [t.strip() for t in os.environ.get("MIXALIGN_TARGETS", "").split(",") if t.strip()]


def plain(node: Any) -> dict[str, Any]:
    """A resolved, plain copy of a node."""
    found = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    return dict(cast(dict[str, Any], found or {}))
