"""From configuration to objects: where the files lie, what may be built, and what is written beside a run."""

import inspect
import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from mixalign.errors import MixalignError, did_you_mean
from mixalign.mixers.base import Mixer
from mixalign.mixers.wrapped import Wrapped, wrap

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
        MixalignError: for a target that may not be built, here or further in, or arguments that it refuses.
    """
    settings = plain(node)
    if not settings:
        return None
    if "_target_" not in settings:
        raise MixalignError(f"{settings} has no `_target_`, so there is nothing to build. Take an entry of its group.")
    for part in _mappings(settings):
        _check_target(part)
    target = settings["_target_"]
    for key in drop:
        settings.pop(key, None)
    _check_keys(target, settings)
    try:
        return instantiate(settings | arguments, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, MixalignError):
            raise error.__cause__ from None
        raise MixalignError(f"`{target}` cannot be built: {error.__cause__ or error}") from error


def build_mixer(node: DictConfig) -> Mixer:
    """The rule of a configuration, with `mixer.wrap` around it."""
    known = {field.name for field in fields(Wrapped)} - {"mixer"}
    for key in plain(node.wrap):
        if key not in known:
            raise MixalignError(f"`mixer.wrap.{key}` is no setting. {did_you_mean(str(key), known)}")
    return wrap(build(node, "name", "wrap"), plain(node.wrap))


def _mappings(node: Any) -> Iterator[dict[str, Any]]:
    """The mappings of a plain node, itself and those inside: Hydra builds each that has a `_target_`."""
    if isinstance(node, dict):
        yield node
    for part in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _mappings(part)


def _check_target(node: dict[str, Any]) -> None:
    """Refuses what could run code that nobody meant to run: foreign classes, functions, and Hydra's other keywords."""
    if "_target_" in node and (further := {key for key in node if key.startswith("_")} - {"_target_", "_convert_"}):
        raise MixalignError(f"`{min(further)}` may not stand beside `_target_: {node['_target_']}`. Remove it.")
    target = node.get("_target_")
    if target is None or target in _own_targets():
        return
    if not str(target).startswith(ALLOWED):
        raise MixalignError(
            f"`_target_: {target}` may not be built: only {', '.join(a + '*' for a in ALLOWED)} may. Name your own "
            "class in the environment variable MIXALIGN_TARGETS (comma-separated) to allow it; a configuration cannot "
            "allow itself."
        )
    try:
        found = get_object(target)
    except Exception as error:  # what an import raises
        why = " ".join(str(error).split())
        raise MixalignError(f"`_target_: {target}` cannot be imported: {why}") from error
    if not inspect.isclass(found):
        raise MixalignError(f"`_target_: {target}` may not be built: it is a {type(found).__name__}, and no class.")


def _check_keys(target: str, settings: dict[str, Any]) -> None:
    """Refuses a key that one of our classes does not have."""
    known: dict[str, Any] = getattr(get_object(target), "__dataclass_fields__", {})
    for key in settings if known else ():
        if key not in known and not key.startswith("_"):
            raise MixalignError(f"`{key}` is no setting of {target}. {did_you_mean(str(key), known)}")


def _own_targets() -> list[str]:
    """What the user allows outside of the known packages: a class, or a function that returns an object."""
    return [t.strip() for t in os.environ.get("MIXALIGN_TARGETS", "").split(",") if t.strip()]


def plain(node: Any) -> dict[str, Any]:
    """A resolved, plain copy of a node."""
    found = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    return dict(cast(dict[str, Any], found or {}))
