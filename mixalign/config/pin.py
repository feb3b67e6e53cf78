"""Specialists of another run (`specialists.of`): the settings that they were trained with, in place of this run's."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mixalign.errors import MixalignError
from mixalign.files import read_json
from mixalign.fingerprint import differences

__all__ = ["FIRST", "pinned"]

FIRST = "first"
COPIED = ("steps", "epochs", "batch_size", "lr", "seed", "folds", "export", "patience")  # keys that decide them
LATER = {"folds": 1, "export": "last", "patience": None}  # those that runs of older versions lack, as these had them


def pinned(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the specialists' settings of `specialists.of`; as it was where that names nothing.

    Below `specialists`, what decides their weights is replaced; `trained_with` gets what stands elsewhere in the
    configuration: optimizer, LoRA, precision, and where they differ by task the steps.

    Args:
        config: plain data. It stays as it is.

    Raises:
        MixalignError: when `specialists.of` is neither a run with specialists nor a folder of them.
    """
    group = config.get("specialists")
    of = group.get("of") if isinstance(group, Mapping) else None
    if of in (None, FIRST) or not isinstance(of, str) or group.get("trained_with"):  # type: ignore[union-attr]
        return dict(config)
    place = Path(of).expanduser().absolute()
    source = place / "config.yaml" if place.is_dir() else place
    found = _of_run(source, of) if source.is_file() else _of_models(place, of, config)
    return {**deepcopy(dict(config)), "specialists": {**dict(group or {}), "of": str(place), **found}}


def _of_run(source: Path, of: str) -> dict[str, Any]:
    """From the configuration of a run."""
    try:
        then: Any = OmegaConf.to_container(OmegaConf.load(source), resolve=True)
        group = then["specialists"]
        elsewhere = {key: then[key] for key in ("optimizer", "lora")} | {"precision": then["trainer"]["precision"]}
    except (YAMLError, OmegaConfBaseException, KeyError, TypeError, UnicodeDecodeError) as error:
        raise MixalignError(
            f"`specialists.of={of}`: {source} cannot be read as the configuration of a run ({error}). Name another run."
        ) from error
    if source.name == "config.yaml" and not (source.parent / "specialists.json").is_file():
        raise MixalignError(
            f"`specialists.of={of}`: that run has no specialists (no specialists.json). Name a run that was trained "
            "with some, as with `specialists.train=always`."
        )
    found = LATER | {key: group[key] for key in COPIED if key in group}
    if group.get("dir"):  # relative to where that run was started
        identity = source.parent / "identity.json"
        began = (read_json(identity) if identity.is_file() else {}).get("started_in")
        found["dir"] = str(Path(began or "", group["dir"]))
    return found | {"trained_with": group.get("trained_with") or elsewhere}


def _of_models(place: Path, of: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """From the recipes of a folder with one trained specialist a task."""
    recipes = {path.parent.name: read_json(path) for path in sorted(place.glob("*/recipe.json"))}
    if not recipes:
        raise MixalignError(
            f"`specialists.of={of}` is neither a run folder (config.yaml) nor a folder with one trained specialist a "
            f"task (TASK/recipe.json). Give one of these, or `{FIRST}` in a sweep."
        )
    first, *others = recipes
    for other in others:
        if wrong := differences(_alike(recipes[first]), _alike(recipes[other])):
            raise MixalignError(
                f"`specialists.of={of}`: `{first}` and `{other}` were not trained alike ({'; '.join(wrong)}). Train "
                "them with the same settings, or leave `specialists.of` out."
            )
    recipe = recipes[first]
    if "fold" in recipe:
        raise MixalignError(f"`specialists.of={of}`: these are cross-fitted. Name a run that was trained with them.")
    optimizer = {"_target_": config["optimizer"]["_target_"], "lr": recipe["fit"]["lr"]} | recipe["optimizer"]
    return {
        "dir": str(place),
        "batch_size": recipe["fit"]["batch_size"],
        "lr": recipe["fit"]["lr"],
        "seed": recipe["seed"],
        "folds": 1,
        "export": "best" if "best_on" in recipe else "last",
        "patience": recipe.get("patience"),
        "trained_with": {
            "optimizer": optimizer,
            "lora": recipe["lora"] or None,
            "precision": recipe["precision"],
            "steps": {task: made["fit"]["steps"] for task, made in recipes.items()},
        },
    }


def _alike(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What is the same for all specialists of a folder."""
    fit = {key: recipe["fit"][key] for key in ("batch_size", "lr")}
    keys = ("optimizer", "lora", "precision", "seed", "folds", "start", "patience")
    return {key: recipe.get(key) for key in keys} | {"fit": fit}
