"""Models on disk, read one parameter at a time: full weights in safetensors, and LoRA adapters on them."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mixalign.errors import MixalignError
from mixalign.models.adapters import ADAPTER, named_base

__all__ = ["Adapter", "Weights", "model_folder", "open_model"]

INDEX = "model.safetensors.index.json"
TIED = "lm_head.weight"  # the input embedding under a second name in models with tied embeddings
UNSUPPORTED = (  # variants of LoRA whose change of a weight is not scale * B A, or not of a weight
    *("use_dora", "lora_bias", "use_qalora", "use_bdlora", "kasa_config", "monteclora_config", "velora_config"),
    *("layer_replication", "target_parameters", "trainable_token_indices", "alora_invocation_tokens", "arrow_config"),
)
PURE_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # other starts also change the base's weights


def model_folder(path: Path) -> Path:
    """The folder of weights that a path means: itself, or the `model/` of a run or of a cached specialist.

    Raises:
        MixalignError: when there is none.
    """
    for folder in (path, path / "model"):
        if any((folder / name).is_file() for name in (ADAPTER, "config.json")):
            return folder
    if (path / "config.yaml").is_file():
        raise MixalignError(
            f"{path} is not finished: its run has no model yet. Go on with it: the same command with run_dir={path}."
        )
    runs = sorted(folder.parent.name for folder in path.glob("*/config.yaml"))
    why = "there is no such folder" if not path.is_dir() else "it has no config.json"
    if runs:
        why = f"one of the runs in it is wanted ({', '.join(runs)})"
    raise MixalignError(f"{path} holds no model: {why}. Give a model's folder, a run or a specialist of the cache.")


class Weights:
    """A full model: the safetensors of a folder, opened but not read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = _read_json(folder / "config.json")
        if "quantization_config" in self.config:
            raise MixalignError(f"{folder} is quantised, so its numbers cannot be averaged. Merge what it was made of.")
        self.files = {name: _open(folder / name) for name in self._file_names()}
        found = {name: file for file, handle in self.files.items() for name in handle.keys()}  # noqa: SIM118
        self.file_of = {name: file for name, file in found.items() if not (self.tied and name == TIED)}

    @property
    def tied(self) -> bool:
        text = self.config.get("text_config") or {}
        return bool(self.config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))

    @property
    def names(self) -> list[str]:
        """Of parameters and buffers; the output layer is not among them where it is the tied embedding."""
        return list(self.file_of)

    def read(self, name: str) -> Tensor:
        """The tensor as it is stored."""
        tensor: Tensor = self.files[self.file_of[name]].get_tensor(name)
        return tensor

    def header(self, name: str) -> tuple[str, list[int]]:
        """Type (as safetensors writes it) and shape, without reading the tensor."""
        piece = self.files[self.file_of[name]].get_slice(name)
        return piece.get_dtype(), list(piece.get_shape())

    def theta(self, name: str) -> Tensor:
        return self.read(name).float()

    def tau(self, name: str, base: Tensor) -> Tensor:
        """The difference to the base's tensor, in float32."""
        return self.theta(name) - base

    def _file_names(self) -> list[str]:
        single, index = self.folder / "model.safetensors", self.folder / INDEX
        if single.is_file():
            return [single.name]
        if not index.is_file():
            raise MixalignError(
                f"{self.folder} has neither model.safetensors nor {INDEX}. Load the model with transformers and write "
                "it again by `save_pretrained`."
            )
        files = sorted(set(_read_json(index)["weight_map"].values()))
        if missing := [file for file in files if not (self.folder / file).is_file()]:
            raise MixalignError(f"{self.folder} is not whole: {INDEX} names {missing[0]}, which is missing.")
        return files


class Adapter:
    """A LoRA adapter on full weights: `theta = base + scale * B A`, scale `alpha / r`, or `alpha / sqrt(r)` (rsLoRA).

    Modules that were trained whole (`modules_to_save`, biases) count with their full change.
    """

    def __init__(self, folder: Path, base: Weights) -> None:
        self.folder, self.base, self.config = folder, base, base.config
        self.settings = adapter_settings(folder)
        path = folder / "adapter_model.safetensors"
        if not path.is_file():
            raise MixalignError(f"{folder} has no adapter_model.safetensors. Write the adapter by `save_pretrained`.")
        self.handle = _open(path)
        self.parts: dict[str, dict[str, str]] = {}  # parameter -> part (A, B or full) -> key in the file
        for key in self.handle.keys():  # noqa: SIM118
            self._place(key)
        for name, parts in self.parts.items():
            if ("A" in parts) != ("B" in parts):
                raise MixalignError(f"{path} is not whole: of `{name}` it has only {', '.join(parts.values())}.")

    def theta(self, name: str) -> Tensor:
        base = self.base.theta(name)
        return base + self.tau(name, base)

    def tau(self, name: str, base: Tensor) -> Tensor:
        """The change of the base's tensor, in float32: from the factors, not as a difference of weights."""
        parts = self.parts.get(name, {})
        tau = self._read(parts["full"]) - base if "full" in parts else torch.zeros_like(base)
        if "A" in parts:
            a, b = self._read(parts["A"]), self._read(parts["B"])
            change = self._scale(name, rank=a.shape[0]) * (b @ a)
            if "lora_embedding_" in parts["A"] or self.settings.get("fan_in_fan_out"):
                change = change.T
            if change.shape != tau.shape:
                raise MixalignError(
                    f"{self.folder} changes `{name}` by a matrix of shape {tuple(change.shape)}, but in the base "
                    f"{self.base.folder} it is {tuple(tau.shape)}. Give the base that the adapter was trained on."
                )
            tau = tau + change
        return tau

    @property
    def names(self) -> list[str]:
        return self.base.names

    def header(self, name: str) -> tuple[str, list[int]]:
        full = self.parts.get(name, {}).get("full")
        shape = list(self.handle.get_slice(full).get_shape()) if full else self.base.header(name)[1]
        return self.base.header(name)[0], shape

    def read(self, name: str) -> Tensor:
        return self.base.read(name)

    def _read(self, key: str) -> Tensor:
        tensor: Tensor = self.handle.get_tensor(key).float()
        return tensor

    def _scale(self, name: str, rank: int) -> float:
        module = name.removesuffix(".weight")
        alphas = self.settings.get("alpha_pattern") or {}
        # the first pattern that fits the end of the module's name, as PEFT looks it up
        own = [alpha for pattern, alpha in alphas.items() if re.match(rf"(.*\.)?({pattern})$", module)]
        alpha = own[0] if own else self.settings["lora_alpha"]
        return float(alpha / (rank**0.5 if self.settings.get("use_rslora") else rank))

    def _place(self, key: str) -> None:
        """Notes which parameter an entry of the file belongs to."""
        inner = key.removeprefix("base_model.model.").replace(".base_layer.", ".")
        factor = re.fullmatch(r"(.+)\.lora_(?:embedding_)?([AB])(?:\.weight)?", inner)
        name, part = (f"{factor[1]}.weight", factor[2]) if factor else (inner, "full")
        if name not in self.base.file_of:
            raise MixalignError(
                f"{self.folder} changes `{name}`, which {self.base.folder} lacks. Give the base that the adapter was "
                "trained on."
            )
        if "lora_embedding_" in key and self.base.tied:
            raise MixalignError(
                f"{self.folder} changes `{name}`, which in {self.base.folder} is also the output layer; a merge would "
                "change both. Untie them, or train the adapter without the embedding."
            )
        self.parts.setdefault(name, {})[part] = key


def adapter_settings(folder: Path) -> dict[str, Any]:
    """What adapter_config.json says.

    Raises:
        MixalignError: when it is not of LoRA, or of a variant whose change is not `scale * B A`.
    """
    settings = _read_json(folder / ADAPTER)
    if settings.get("peft_type") != "LORA":
        raise MixalignError(f"{folder} is an adapter of type {settings.get('peft_type')}; only LORA can be merged.")
    used = [f"{key}={settings[key]}" for key in UNSUPPORTED if settings.get(key)]
    if settings.get("init_lora_weights", True) not in PURE_STARTS:
        used.append(f"init_lora_weights={settings['init_lora_weights']}")
    if used:
        raise MixalignError(
            f"{folder} is no plain LoRA ({', '.join(used)}): its change of the weights is not `scale * B A`. Merge it "
            "into its base with PEFT (`merge_and_unload`), save that, and give the full model."
        )
    return settings


def open_model(folder: Path, base: Weights | None) -> Weights | Adapter:
    """The model of a folder; an adapter needs a base."""
    if not (folder / ADAPTER).is_file():
        return Weights(folder)
    assert base is not None
    return Adapter(folder, base)


def find_base(folders: Sequence[Path], given: Path | None) -> Weights | None:
    """The model that adapters change: the one given, or the one that all of them name; None without adapters.

    Raises:
        MixalignError: when there is none on this disk, or adapters were trained on different weights.
    """
    base = Weights(model_folder(given)) if given else None
    for folder in folders:
        if not (folder / ADAPTER).is_file():
            continue
        named = Path(named_base(folder / ADAPTER)[0])
        found = named.is_dir() and (named / "config.json").is_file()
        if base is None and not found:
            raise MixalignError(
                f"{folder} is an adapter on `{named}`, which is no folder of a model here. Give its folder: --base."
            )
        base = base or Weights(named)
        if found and named.resolve() != base.folder.resolve() and not _same(base, Weights(named)):
            raise MixalignError(
                f"{folder} is an adapter on {named}, whose weights are not those of {base.folder}. Merge adapters of "
                f"one base, or make this one a full model first: `mixalign merge {folder} --out FOLDER`."
            )
    return base


def _same(a: Weights, b: Weights) -> bool:
    """Whether two folders hold the same numbers, in whatever type and shards."""
    if sorted(a.names) != sorted(b.names):
        return False
    return all(a.header(name)[1] == b.header(name)[1] and torch.equal(a.theta(name), b.theta(name)) for name in a.names)


def _open(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise MixalignError(f"{path} is damaged ({error}). Write or fetch it again.") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise MixalignError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise MixalignError(f"{path} holds a {type(found).__name__}, but must hold an object.")
    return found
