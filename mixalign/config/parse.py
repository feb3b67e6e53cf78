"""From plain mappings to settings: the one place where keys, types, ranges and words are checked."""

import os
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from mixalign.checks import check_mapping, check_text
from mixalign.config.build import build, build_mixer, check_buildable
from mixalign.config.defaults import AUTO, Situation, fill
from mixalign.config.elsewhere import key_of_group, nearest_key
from mixalign.config.fields import RATE
from mixalign.config.pin import pinned
from mixalign.config.settings import GROUPS, DataSettings, RunSettings, SpecialistsSettings, TrainerSettings
from mixalign.data.read.sources import TaskSpec
from mixalign.errors import MixalignError, did_you_mean
from mixalign.files import may_write
from mixalign.mixers.fixed import Fixed
from mixalign.models.tiny import TinyLlama
from mixalign.training.trainer_arguments import check_arguments
from mixalign.types import Form

__all__ = ["NEEDED", "check_place", "parse", "parse_saved", "with_later_keys"]

SECRET = re.compile(r"(TOKEN|API_KEY|SECRET|PASSWORD)$")  # names of environment variables
NODES = ("mixer", "objective", "model", "lora", "optimizer", "influence", "engine")  # keys that describe an object
NO_RULE = Fixed()  # of a merge, whose config.yaml describes the merge in place of a mixer
LATER: dict[str, Any] = {
    "probe": {},
    "merge": {},
    "eval": {},
    "influence": {"_target_": "mixalign.influence.settings.Influence"},
}
"""Keys that came later, as a run has them that was made before."""

NEEDED = {*GROUPS, *NODES} - {*LATER}
"""Keys that the configuration of every run has, whichever version wrote it."""

RECOMMENDED = ("steps", "batch_size", "specialist_steps", "reference_sft_steps")
USUAL_LOGGER = {"_target_": "mixalign.training.metrics_file.MetricsFile"}  # ours; a look at it loads Lightning
SHORTEST_SECRET = 12  # characters; a shorter one may be a word of a configuration


def parse(config: Mapping[str, Any]) -> RunSettings:
    """The settings of a run.

    Args:
        config: the composed configuration, resolved, as plain data. It stays as it is.

    Raises:
        MixalignError: naming the first key that is unknown, missing, or has a value that it may not have.
    """
    _check_groups(config)
    _check_secrets(config)
    config = pinned(config)
    form, model = _form(config), build(config["model"])
    is_random, recommended = isinstance(model, TinyLlama), config["data"].get("recommended")
    for key in recommended or ():
        if key not in RECOMMENDED:
            raise MixalignError(f"`data.recommended.{key}` is no setting. {did_you_mean(str(key), RECOMMENDED)}")
    config, chosen = fill(config, Situation(form, is_random, bool(config["lora"]), recommended or {}))
    RATE("optimizer.lr", config["optimizer"].get("lr"))  # before specialists.lr, which follows it
    settings = RunSettings(
        **_values(RunSettings, config, ""),
        **{name: _group(name, config) for name in GROUPS},
        mixer=build_mixer(config["mixer"]) if "_target_" in config["mixer"] else NO_RULE,
        objective=build(config["objective"], "name"),
        model=model,
        lora=build(config["lora"]),
        optimizer=build(config["optimizer"]),
        influence=build(config["influence"]),
        engine=build(config["engine"]),
        logger=_buildable("logger", config),
        callbacks=_buildable("callbacks", config),
        plain=config,
        chosen=chosen,
    )
    for key, rate in _rates(settings).items():
        settings.optimizer.check_rate(key, rate)
    _check_patience(settings.specialists)
    check_place("cache_dir", settings.cache_dir, read=True)
    if settings.specialists.dir:
        check_place("specialists.dir", Path(settings.specialists.dir), read=True)
    return settings


def _check_patience(settings: SpecialistsSettings) -> None:
    """Refuses trainings that are to end by validation rows, and would keep weights that these did not choose."""
    if settings.patience is not None and settings.export != "best":
        raise MixalignError(
            f"`specialists.patience={settings.patience}` ends a training when it is past its best step, and "
            f"`specialists.export={settings.export}` would keep the last one. Set `specialists.export=best`."
        )


def parse_saved(config: Mapping[str, Any]) -> RunSettings:
    """The settings of a run, from its config.yaml, which another version may have written.

    Keys are renamed to those of today, and left out where this version does not know them.

    Args:
        config: plain data, with the keys of NEEDED. It stays as it is.

    Raises:
        MixalignError: as `parse` does.
    """
    config = with_later_keys(config)
    _check_groups(config)
    if "reference" in config["data"]:
        config["data"]["target"] = config["data"].pop("reference")
    for node in (config["model"], config["data"]):
        if "learning_rate" in (node.get("recommended") or {}):
            del node["recommended"]
    return parse(_known_part(config))


def with_later_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.yaml of any version with the keys that came later, as its run has them; other plain data stays."""
    today: dict[str, Any] = deepcopy(LATER | dict(config))
    for name in NODES:
        if isinstance(today.get(name), dict):
            _add_later_keys(today[name])
    return today


def _add_later_keys(node: dict[str, Any]) -> None:
    """Gives a node the keys that its class got later, with their defaults: what the class did before."""
    target = str(node.get("_target_"))
    if not target.startswith("mixalign."):
        return
    try:
        kind = resolve_name(target)
    except Exception:  # whatever an import raises; `build` says it
        return
    for entry in fields(kind) if is_dataclass(kind) else ():
        if entry.init and entry.default is not MISSING:
            node.setdefault(entry.name, entry.default)


def check_place(key: str, path: Path, read: bool = False) -> None:
    """Refuses a folder that cannot be made, or not be written to; makes nothing.

    Args:
        read: whether it may be read-only, where it is there: it may hold all that is needed.

    Raises:
        MixalignError: naming what is in the way.
    """
    path = path.expanduser().absolute()
    there = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise MixalignError(f"`{key}` is {path}, but {there} is no folder. Name another place.")
    if not (read and there == path) and not may_write(path):
        raise MixalignError(f"`{key}` is {path}, but this user may not write to {there}. Name another place.")


def _known_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """What this version knows of a configuration that another one may have written."""
    names = {entry.name for entry in fields(RunSettings) if "touches" in entry.metadata}
    known = {key: value for key, value in config.items() if key in names}
    for group, kind in GROUPS.items():
        inner = {entry.name: entry.default for entry in fields(kind)}
        later = {name: default for name, default in inner.items() if isinstance(default, str | int | float | None)}
        known[group] = later | {key: value for key, value in known[group].items() if key in inner}
    return known


def _check_groups(config: Mapping[str, Any]) -> None:
    """Refuses a configuration without one of its groups, or with something else in its place."""
    for group in (*GROUPS, *NODES):
        if group not in config:
            raise MixalignError(f"`{group}` is missing. Leave it as it is, or take an entry of its group.")
        check_mapping(group, config[group], null=group == "lora", why="Set the keys below it.")
    for group in ("mixer", "objective"):
        check_text(f"{group}.name", config[group].get("name"), why="It stands in results and messages.")
    check_mapping("mixer.wrap", config["mixer"].get("wrap"), null=True)
    check_mapping("data.recommended", config["data"].get("recommended"), null=True)


def _rates(settings: RunSettings) -> dict[str, float]:
    """The peak learning rate of each training."""
    rates = {"optimizer.lr": settings.optimizer.lr, "specialists.lr": settings.specialists.lr}
    return rates | ({"reference.sft_lr": settings.reference.sft_lr} if settings.reference.sft_steps != 0 else {})


def _form(config: Mapping[str, Any]) -> Form:
    """Of the rows that the objective reads, whose own settings may be `auto`."""
    node = {key: value for key, value in config["objective"].items() if value != AUTO}
    form: Form = build(node, "name").form
    return form


def _group(name: str, config: Mapping[str, Any]) -> Any:
    """One of the groups that a dataclass describes."""
    kind, node = GROUPS[name], dict(config[name])
    if kind is TrainerSettings:
        check_arguments(key for key in node if key not in {entry.name for entry in fields(kind)})
    values = _values(kind, node, f"{name}.")
    if kind is DataSettings:
        values["tasks"] = {
            str(task): None if entry is None else TaskSpec.from_mapping(str(task), entry)  # YAML reads 1 as a number
            for task, entry in (values["tasks"] or {}).items()
        }
        values["target"] = _target(values.get("target"))
    return kind(**values)


def _target(value: Any) -> Any:
    if isinstance(value, Mapping) and value:
        return {name: TaskSpec.from_mapping(name, entry) for name, entry in value.items()}
    names = [value] if isinstance(value, str) else list(value or ())
    return tuple(names) or None


def _values(kind: type, node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The values of the fields that single keys fill, each checked.

    Raises:
        MixalignError: for a key that is unknown or missing, or a value that it may not have.
    """
    known = {entry.name: entry for entry in fields(kind) if "touches" in entry.metadata}
    for key in node:
        if key not in known:
            group = prefix.rstrip(".")
            hint = key_of_group(group, str(key), known, node) if group else nearest_key(str(key), known, node)
            raise MixalignError(f"`{prefix}{key}` is no setting. {hint}")
    values = {}
    for name, entry in known.items():
        if "check" not in entry.metadata:
            continue
        if name not in node:
            if entry.default is MISSING and entry.default_factory is MISSING:
                raise MixalignError(f"`{prefix}{name}` is missing: was the configuration written by another version?")
            continue
        entry.metadata["check"](f"{prefix}{name}", node[name])
        values[name] = _typed(entry.type, node[name])
    return values


def _typed(kind: Any, value: Any) -> Any:
    """Paths and tuples, which plain data has as text and lists."""
    if value is not None and kind in (Path, Path | None):
        return Path(value).expanduser()
    return tuple(value) if isinstance(value, list) and "tuple" in str(kind) else value


def _buildable(group: str, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> node of objects that each training builds for itself; refuses what could not be built then."""
    nodes = dict(config.get(group) or {})
    for name, node in nodes.items():
        if node is not None and node != USUAL_LOGGER:
            check_buildable(f"{group}.{name}", node)
    return {name: node for name, node in nodes.items() if node is not None}


def _check_secrets(node: Any, key: str = "") -> None:
    """Refuses a token in the configuration, which is written beside the run, and into logs."""
    if isinstance(node, dict | list):
        for name, part in node.items() if isinstance(node, dict) else enumerate(node):
            _check_secrets(part, f"{key}.{name}" if key else str(name))
    elif isinstance(node, str):
        for name, secret in os.environ.items():
            if SECRET.search(name) and len(secret) >= SHORTEST_SECRET and secret in node:
                raise MixalignError(
                    f"`{key}` holds the secret of the environment variable {name}, which would be written to disk. "
                    "Leave it out: libraries read the variable themselves."
                )
