"""Adapters of PEFT on disk: the model that they were trained on, and both as one model to start from."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from mixalign.errors import MixalignError
from mixalign.files import read_json
from mixalign.models.fingerprint import weights_fingerprint

__all__ = [
    "ADAPTER",
    "BASE",
    "NAME",
    "READS",
    "TRAINED_ON",
    "base_of",
    "check_base",
    "find_file",
    "kept_share",
    "load_adapter",
    "merge_adapter",
    "named_base",
    "naming_adapter",
    "round_once",
]

Model = TypeVar("Model")

ADAPTER = "adapter_config.json"  # is in PEFT's folders
NAME = "base_model_name_or_path"  # key of it
BASE = "base"  # folder of a run, beside the one with its adapter: the model that it was trained on

READS = "only_reads"
"""Attribute of a forward hook that gives the layer's own output again: `AdaptedLinear` may take values elsewhere."""

TRAINED_ON = "trained_on.json"  # beside an adapter of ours: `dtype` and `fingerprint` of a base that is not


def find_file(place: str, name: str) -> Path | None:
    """A file of a model's folder; None where it is not, or where `place` is no folder."""
    path = Path(place).expanduser() / name
    return path if path.is_file() else None


def named_base(config: Path) -> tuple[str, str | None]:
    """The folder or hub id of the model that an adapter was trained on, if it names one, and its revision there.

    A run has that model beside its adapter, and an exported one in its folder, wherever they were moved to.

    Args:
        config: the adapter's adapter_config.json.
    """
    content = read_json(config)
    name = str(content.get(NAME) or "")
    if Path(name).is_absolute() and Path(name).name == BASE:
        for place in (config.parent.parent, config.parent):  # of a run; of what was exported
            if (place / BASE / "config.json").is_file():
                return str(place / BASE), None
    return name, content.get("revision")


def base_of(config: Path) -> tuple[str, str | None]:
    """The same of an adapter whose base is to be loaded.

    Raises:
        MixalignError: when it names no model, or one that is not there.
    """
    name, revision = named_base(config)
    place = Path(name)
    if not name or (place.is_absolute() and not place.is_dir()) or place.resolve() == config.parent.resolve():
        raise MixalignError(
            f"{config.parent} is an adapter on `{name}`, which is no folder of a model here. Restore that, name its "
            f"place as `{NAME}` in {config}, or give one model of both: `mixalign merge ADAPTER --base MODEL --out "
            "FOLDER`."
        )
    return name, revision


@contextmanager
def naming_adapter(config: Path) -> Iterator[None]:
    """Has an error over an adapter's base that is no folder say whose base it is, and where that is named."""
    name, _ = named_base(config)
    try:
        yield
    except MixalignError as error:
        if Path(name).is_dir() or str(config) in str(error):
            raise
        raise MixalignError(
            f"{config.parent} is an adapter on `{name}`, which is no folder here and could not be had from a hub: "
            f"{error} If it is a folder, name its place as `{NAME}` in {config}."
        ) from error


def check_base(config: Path, base: torch.nn.Module, dtype: str) -> None:
    """Makes sure that the base of an adapter of ours has the weights that it had when the adapter was trained.

    Args:
        config: the adapter's adapter_config.json.
        dtype: of the base; nothing is known of others than that of the training.

    Raises:
        MixalignError: when they are others.
    """
    known = config.with_name(TRAINED_ON)
    then = read_json(known) if known.is_file() else {}
    if then.get("dtype") == dtype and then["fingerprint"] != (now := weights_fingerprint(base)):
        raise MixalignError(
            f"{config.parent} is an adapter on `{named_base(config)[0]}`, whose weights or configuration are others "
            f"than when it was trained (fingerprint {then['fingerprint']} then, {now} now). Restore that model, or "
            f"delete {known} to take it as it is."
        )


def load_adapter(base: Any, place: Path | str, trainable: bool = False) -> Any:
    """The model with the adapter of a folder, frozen unless it is `trainable`.

    Raises:
        MixalignError: when the adapter cannot be read, or was made for another model.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights

    try:
        model = PeftModel.from_pretrained(base, str(place), is_trainable=trainable)
        read = load_peft_weights(str(place), device="cpu")
        factors = {name for name in get_peft_model_state_dict(model, save_embedding_layers=False) if ".lora_" in name}
        if others := factors ^ {name for name in read if ".lora_" in name}:
            raise ValueError(f"{len(others)} of their layers are not the same, such as that of {min(others)}")
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of peft, safetensors, json and torch
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise MixalignError(
            f"The adapter {place} is damaged, or does not fit the model that it is put on: {reason}. Put it on the "
            "one that it was trained on, or train it again."
        ) from error
    return round_once(model)


def round_once(model: Model) -> Model:
    """A model of PEFT with LoRA layers that round once, changed in place; any other as it is.

    See `mixalign.models.adapted_linear`.
    """
    if hasattr(model, "peft_config"):
        from mixalign.models.adapted_linear import change_layers

        change_layers(model)
    return model


@torch.no_grad()
def kept_share(model: Any, dtype: torch.dtype) -> float:
    """Share of an adapter's change of its base that is left once both are one model in a type: 1 where all of it is.

    A change below half a unit in the last place of a weight is rounded away, and the type of a base that was published
    in 16 bits has its weights exactly, so that a small adapter is lost on all of them at once.

    Args:
        model: a model of PEFT with a LoRA adapter that is not merged, in float32.
    """
    left = whole = 0.0
    for layer in model.modules():
        if hasattr(layer, "get_delta_weight"):
            weight = layer.get_base_layer().weight
            change = layer.get_delta_weight(layer.active_adapters[0])
            left += float((((weight + change).to(dtype).float() - weight.to(dtype).float()) * change).sum())
            whole += float(change.square().sum())
    return left / whole if whole else 1.0


def merge_adapter(base: Any, place: str, watch: Callable[[Any], None] = lambda model: None) -> Any:
    """One model out of another and an adapter on it, of which all weights can be trained; it has no place on disk.

    Args:
        watch: called with both, as a model of PEFT.

    Raises:
        MixalignError: when the adapter does not fit, or cannot be written into weights.
    """
    model = load_adapter(base, place)
    if not hasattr(model.base_model, "merge_and_unload"):
        raise MixalignError(
            f"`model.path={place}` is an adapter of type {model.active_peft_config.peft_type.value}, which is no "
            "change of weights, so that nothing can be trained on top of it. Give a full model, or a LoRA adapter."
        )
    core = model.get_base_model()
    ends = (core.get_input_embeddings(), core.get_output_embeddings())
    if core.config.get_text_config().tie_word_embeddings and any(map(_is_adapted, ends)):
        raise MixalignError(
            f"`model.path={place}` is an adapter that changes the input embedding or the output layer, which are one "
            "in its base (tie_word_embeddings), so that they cannot be one model. Untie them there, or train the "
            "adapter without both."
        )
    watch(model)
    model = model.merge_and_unload().requires_grad_(True)
    model.name_or_path = model.config._name_or_path = ""  # what is trained on it must not name its base
    return model


def _is_adapted(layer: Any) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    return isinstance(layer, BaseTunerLayer | ModulesToSaveWrapper)
