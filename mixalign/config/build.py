"""From configuration nodes to objects, and what may be built of them."""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from fnmatch import fnmatchcase
from pkgutil import resolve_name
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from mixalign.errors import MixalignError, did_you_mean
from mixalign.mixers.base import Rule
from mixalign.mixers.outside import as_rule
from mixalign.mixers.wrapped import Wrapped, wrap
from mixalign.training.foreign_names import meant

__all__ = ["allowed_function", "build", "build_mixer", "check_buildable"]

ALLOWED = ("mixalign.*", "lightning.*", "torch.*", "transformers.*", "peft.*", "torchmetrics.*")


def build(node: Mapping[str, Any] | None, *drop: str, **arguments: Any) -> Any:
    """The object that a configuration node describes, or None for an empty node.

    Args:
        node: plain data with `_target_`; its other keys are the constructor's arguments.
        drop: keys that only the configuration reads.
        arguments: further arguments.

    Raises:
        MixalignError: for a target that may not be built, here or further in, or arguments that it refuses.
    """
    if not node:
        return None
    settings = {key: value for key, value in node.items() if key not in drop}
    check_buildable("", settings)
    target = settings["_target_"]
    try:
        return instantiate(settings | arguments, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, MixalignError):
            raise error.__cause__ from None
        raise MixalignError(f"`{target}` cannot be built: {error.__cause__ or error}") from error


def build_mixer(node: Mapping[str, Any]) -> Rule:
    """The rule of a configuration, with `mixer.wrap` around it."""
    around = dict(node.get("wrap") or {})
    known = {field.name for field in fields(Wrapped)} - {"mixer"}
    for key in around:
        if key not in known:
            raise MixalignError(f"`mixer.wrap.{key}` is no setting. {did_you_mean(str(key), known)}")
    return wrap(as_rule(build(node, "name", "wrap")), around)


def check_buildable(key: str, node: Any) -> None:
    """Refuses a node whose class may not be built, or does not know one of its keys; builds nothing.

    Args:
        key: where the node stands, for messages; empty where its target says enough.

    Raises:
        MixalignError: naming the target, and what is wrong.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        place = f"`{key}` is {node!r}, and" if key else f"{node}"
        raise MixalignError(f"{place} has no `_target_`, so there is nothing to build. Take an entry of its group.")
    for part in _mappings(node):
        _check_target(part)
    for part in _mappings(node):
        _check_arguments(part)


def _check_arguments(node: Mapping[str, Any]) -> None:
    """Refuses what the constructor does not take; one that takes any keyword has the last word itself."""
    if "_target_" not in node:
        return
    try:
        known = dict(inspect.signature(resolve_name(node["_target_"])).parameters)
    except ValueError:  # of a class that is written in C
        return
    if any(entry.kind is inspect.Parameter.VAR_KEYWORD for entry in known.values()):
        return
    for name in node:
        if name not in known and not name.startswith("_"):
            raise MixalignError(f"`{name}` is no setting of {node['_target_']}. {meant(str(name), known)}")


def _mappings(node: Any) -> Iterator[Mapping[str, Any]]:
    """The mappings of a plain node, itself and those inside: Hydra builds each that has a `_target_`."""
    if isinstance(node, Mapping):
        yield node
    for part in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        yield from _mappings(part)


def _check_target(node: Mapping[str, Any]) -> None:
    """Refuses what could run code that nobody meant to run: foreign classes, functions, and Hydra's other keywords."""
    if "_target_" in node and (further := {key for key in node if key.startswith("_")} - {"_target_", "_convert_"}):
        raise MixalignError(f"`{min(further)}` may not stand beside `_target_: {node['_target_']}`. Remove it.")
    target = node.get("_target_")
    if target is None or _is_one_of(target, _users_targets()):
        return
    if not _is_one_of(target, ALLOWED):
        raise MixalignError(
            f"`_target_: {target}` may not be built: only {', '.join(ALLOWED)} may. Name your own class, or "
            "`module.*`, in the environment variable MIXALIGN_TARGETS (comma-separated) to allow it; a configuration "
            "cannot allow itself."
        )
    kind = _imported(f"`_target_: {target}`", target)
    if not inspect.isclass(kind):
        raise MixalignError(f"`_target_: {target}` may not be built: it is a {type(kind).__name__}, and no class.")


def allowed_function(key: str, path: str) -> Callable[..., Any]:
    """A function of the user's own, that MIXALIGN_TARGETS names.

    Raises:
        MixalignError: when it does not, or when there is no such function.
    """
    if not _is_one_of(path, _users_targets()):
        raise MixalignError(
            f"`{key}={path}` may not be called: name it, or `module.*`, in the environment variable MIXALIGN_TARGETS "
            "(comma-separated) to allow it; a configuration cannot allow itself."
        )
    found = _imported(f"`{key}={path}`", path)
    if not callable(found):
        raise MixalignError(f"`{key}={path}` is a {type(found).__name__}, and nothing that can be called.")
    function: Callable[..., Any] = found
    return function


def _imported(what: str, path: str) -> Any:
    """What a dotted path names; Hydra's own function would log its failures beside the message of the error.

    Args:
        what: the setting, for messages.
    """
    try:
        return resolve_name(path)
    except Exception as error:  # what an import raises
        raise MixalignError(
            f"{what} cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}. Give its module and "
            "its name in there, `module.name`; the module is looked for in the folders of PYTHONPATH."
        ) from error


def _is_one_of(target: Any, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(str(target), pattern) for pattern in patterns)


def _users_targets() -> tuple[str, ...]:
    """What the user allows outside of the known packages: classes, functions that return an object, `module.*`."""
    return tuple(text.strip() for text in os.environ.get("MIXALIGN_TARGETS", "").split(",") if text.strip())
