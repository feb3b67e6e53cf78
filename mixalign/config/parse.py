"""From plain mappings to settings: the one place where keys, types, ranges and words are checked."""

import os
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from mixalign.checks import check_text
from mixalign.config.build import build, build_mixer, check_buildable
from mixalign.config.defaults import AUTO, Situation, fill
from mixalign.config.settings import GROUPS, RATE, DataSettings, RunSettings, TrainerSettings
from mixalign.data.read.sources import TaskSpec
from mixalign.errors import MixalignError, did_you_mean
from mixalign.mixers.fixed import Fixed
from mixalign.models.tiny import TinyLlama

__all__ = ["check_place", "known_part", "parse"]

SECRET = re.compile(r"(TOKEN|API_KEY|SECRET|PASSWORD)$")  # names of environment variables
NODES = ("mixer", "objective", "model", "lora", "optimizer", "influence", "engine")  # keys that describe an object
NO_RULE = Fixed()  # of a merge, whose config.yaml describes the merge in place of a mixer
INFLUENCE = {"_target_": "mixalign.influence.settings.Influence"}  # of runs that were made before the key was
SHORTEST_SECRET = 12  # characters; a shorter one may be a word of a configuration


def parse(config: Mapping[str, Any]) -> RunSettings:
    """The settings of a run.

    Args:
        config: the composed configuration, resolved, as plain data; or a run's config.yaml. It stays as it is.

    Raises:
        MixalignError: naming the first key that is unknown, missing, or has a value that it may not have.
    """
    config = _today(config)
    _check_secrets(config)
    config, chosen = fill(config, _situation(config))
    RATE("optimizer.lr", config["optimizer"].get("lr"))  # before specialists.lr, which follows it
    nodes = {name: config.get(name) for name in ("objective", "model", "lora", "optimizer", "influence")}
    settings = RunSettings(
        **_values(RunSettings, config, ""),
        **{name: _group(name, config) for name in GROUPS},
        mixer=build_mixer(config["mixer"]) if "_target_" in config["mixer"] else NO_RULE,
        objective=build(nodes["objective"], "name"),
        model=build(nodes["model"]),
        lora=build(nodes["lora"]),
        optimizer=build(nodes["optimizer"]),
        influence=build(nodes["influence"]),
        engine=build(config.get("engine")),
        logger=_buildable("logger", config),
        callbacks=_buildable("callbacks", config),
        plain=config,
        chosen=chosen,
    )
    check_place("cache_dir", settings.cache_dir)
    if settings.specialists.dir:
        check_place("specialists.dir", Path(settings.specialists.dir))
    return settings


def known_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """What this version knows of a configuration that another one may have written."""
    names = {entry.name for entry in fields(RunSettings) if "touches" in entry.metadata}
    known: dict[str, Any] = {"influence": INFLUENCE}
    known |= {key: value for key, value in config.items() if key in names}
    for group, kind in GROUPS.items():
        if kind is not TrainerSettings and isinstance(known.get(group), Mapping):
            inner = {entry.name for entry in fields(kind)} | ({"reference"} if kind is DataSettings else set())
            known[group] = {key: value for key, value in known[group].items() if key in inner}
    return known


def check_place(key: str, path: Path) -> None:
    """Refuses a folder that cannot be made, or not be written to; makes nothing.

    Raises:
        MixalignError: naming what is in the way.
    """
    path = path.expanduser().absolute()
    there = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise MixalignError(f"`{key}` is {path}, but {there} is no folder. Name another place.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise MixalignError(f"`{key}` is {path}, but this user may not write to {there}. Name another place.")


def _today(given: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with the names that keys have today, from the config.yaml of an older run."""
    config = deepcopy(dict(given))
    for group in (*GROUPS, *NODES):
        if not isinstance(config.get(group, {}), Mapping) and not (config[group] is None and group == "lora"):
            raise MixalignError(f"`{group}` is {config[group]!r}, but must be a mapping. Set the keys below it.")
        if group not in config and group not in ("merge", "probe"):  # those came later
            raise MixalignError(f"`{group}` is missing. Leave it as it is, or take an entry of its group.")
    for group in ("mixer", "objective"):
        check_text(f"{group}.name", config[group].get("name"), why="It stands in results and messages.")
    for key, value in (("mixer.wrap", config["mixer"].get("wrap")), ("data.recommended", _recommended(config))):
        if value is not None and not isinstance(value, Mapping):
            raise MixalignError(f"`{key}` is {value!r}, but must be a mapping.")
    if "reference" in config["data"]:
        config["data"]["target"] = config["data"].pop("reference")
    for node in (config["model"], config["data"]):
        advice = node.get("recommended")
        if "learning_rate" in (advice or {}):
            node.pop("recommended")
    return config


def _recommended(config: Mapping[str, Any]) -> Any:
    return config["data"].get("recommended")


def _situation(config: Mapping[str, Any]) -> Situation:
    objective = {key: value for key, value in dict(config["objective"] or {}).items() if value != AUTO}
    return Situation(
        form=build(objective, "name").form,
        is_random=isinstance(build(config["model"]), TinyLlama),
        has_lora=bool(config.get("lora")),
        recommended=_recommended(config) or {},
    )


def _group(name: str, config: Mapping[str, Any]) -> Any:
    """One of the groups that a dataclass describes."""
    kind, node = GROUPS[name], dict(config.get(name) or {})
    more = {}
    if kind is TrainerSettings:
        known = {entry.name for entry in fields(kind)}
        more = {"more": {key: node.pop(key) for key in [*node] if key not in known}}
    values = _values(kind, node, f"{name}.")
    if kind is DataSettings:
        values["tasks"] = {
            str(task): None if entry is None else TaskSpec.from_mapping(str(task), entry)  # YAML reads 1 as a number
            for task, entry in (values["tasks"] or {}).items()
        }
        values["target"] = _target(values.get("target"))
    return kind(**values, **more)


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
            raise MixalignError(f"`{prefix}{key}` is no setting. {did_you_mean(str(key), known)}")
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
        if node is not None:
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
