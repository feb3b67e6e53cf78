"""Folders of trained models that transformers, PEFT and vLLM load: one full model, or an adapter."""

import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.filesize import decimal
from safetensors.torch import load_file, save_file

from mixalign.errors import MixalignError
from mixalign.files import read_json, write_json
from mixalign.merging.write import fresh_folder
from mixalign.models.adapters import ADAPTER, BASE, NAME, base_of, check_base, kept_share, merge_adapter, naming_adapter
from mixalign.models.load import TOKENIZERS
from mixalign.reporting.show.card import Shown, filled_in, write_card, write_plain_card
from mixalign.runs.rendering import FILE, keep_rendering
from mixalign.sharing.find import TrainedModel

__all__ = ["DTYPES", "How", "export_model"]

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
WEIGHTS = "adapter_model.safetensors"
KEPT = 0.9  # share of an adapter's change, along it, from which rounding is not worth a word

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class How:
    """How a model is exported.

    Attributes:
        adapter: whether the adapter itself, in place of one model of it and its base.
        dtype: a key of `DTYPES`; None: as it was trained.
        max_shard_size: of a file of weights, as in `5GB`.
        base_model: id of the base on the hub, for the card and an adapter's configuration.
        license: an id of the hub's list, for the card.
        name: what the card loads the model by; None: a path to fill in.
    """

    adapter: bool = False
    dtype: str | None = None
    max_shard_size: str = "5GB"
    base_model: str | None = None
    license: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+[KMGT]B", self.max_shard_size.upper()):
            raise MixalignError(f"--max-shard-size is {self.max_shard_size}, but must be a size as in 5GB or 500MB.")


def export_model(found: TrainedModel, out: Path, how: How) -> str:
    """Fills a new folder with a model, its tokenizer, its card, and how the run read the rows of its tasks.

    Args:
        out: written beside its place and renamed.

    Returns:
        What it holds, as a phrase.

    Raises:
        MixalignError: when `out` is taken, or the model cannot be had in that form.
    """
    if how.adapter and found.adapter is None:
        raise MixalignError(
            f"{found.folder} is a full model, trained without an adapter. Leave out --adapter, or train with "
            "`lora=default`."
        )
    with fresh_folder(out) as folder:
        dtype = _write_adapter(found, folder, out, how) if how.adapter else _write_full(found, folder, how)
        _write_tokenizer(found, folder)
        _write_card(found, folder, how, dtype)
        _write_rendering(found, folder)
        _let_others_read(folder)
        size, of_base = _size(folder), _size(folder / BASE)
    kind = "full model" if found.adapter is None else "adapter" if how.adapter else "adapter and base as one model"
    beside = f", and {decimal(of_base)} of its base in {BASE}/" if of_base else ""
    return f"{kind}, {dtype}, {decimal(size)} of weights{beside}"


def _size(folder: Path) -> int:
    """Bytes of the weights in a folder; 0 where there are none."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _write_full(found: TrainedModel, folder: Path, how: How) -> str:
    """Writes one model; gives the type of its weights."""
    dtype = DTYPES[how.dtype] if how.dtype else getattr(torch, found.source.dtype)
    model: Any = _merged(found, dtype) if found.adapter else found.source.build()
    model.to(dtype)
    model.config.use_cache = True
    if getattr(model, "generation_config", None) is not None and model.generation_config.use_cache is False:
        model.generation_config.use_cache = True
    try:
        model.save_pretrained(folder, max_shard_size=how.max_shard_size.upper())
    except ValueError as error:  # of settings of generation that transformers refuses
        raise MixalignError(f"{found.folder} cannot be written: {' '.join(str(error).split())}") from error
    return _name(next(model.parameters()).dtype)


def _merged(found: TrainedModel, dtype: torch.dtype) -> Any:
    """The adapter written into its base, in float32 whatever the type of the base in training.

    Args:
        dtype: of the export; how much of the adapter that keeps is said where it is not nearly all.
    """
    config, source = found.adapter, found.source
    assert config is not None
    with naming_adapter(config):
        base = source.base(config).build()
    check_base(config, base, source.dtype)
    try:
        model = merge_adapter(base.float(), str(found.folder), lambda both: _warn_of_rounding(both, dtype))
    except MixalignError as error:
        raise MixalignError(f"{error} Or export the adapter itself: --adapter.") from error
    source.let_stop(model)
    return model


def _warn_of_rounding(model: Any, dtype: torch.dtype) -> None:
    if dtype.itemsize < 4 and (kept := kept_share(model, dtype)) < KEPT:
        log.warning(
            "In %s one model of both keeps %.0f %% of what the adapter changes: the rest is below the rounding of its "
            "base's weights. Export it with --dtype fp32, or the adapter itself with --adapter.",
            _name(dtype),
            100 * kept,
        )


def _write_adapter(found: TrainedModel, folder: Path, out: Path, how: How) -> str:
    """Writes the adapter as PEFT has it, beside it a base that nobody else has; gives the type of its weights."""
    assert found.adapter is not None
    weights = load_file(found.folder / WEIGHTS)
    if how.dtype:
        weights = {name: weight.to(DTYPES[how.dtype]) for name, weight in weights.items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    config = read_json(found.adapter)
    if how.base_model:
        config[NAME] = how.base_model
    elif found.base is not None and found.base_is_made:
        shutil.copytree(found.base, folder / BASE)
        config[NAME] = str(out.resolve() / BASE)  # PEFT reads it from the working folder, not from that of the adapter
    else:
        config[NAME] = base_of(found.adapter)[0] if found.base is None else str(found.base)
    write_json(folder / ADAPTER, config)
    return _name(next(iter(weights.values())).dtype)


def _write_tokenizer(found: TrainedModel, folder: Path) -> None:
    """As it was saved with the model; an adapter of elsewhere may leave it to its base."""
    if not (found.folder / "tokenizer_config.json").is_file():
        found.source.tokenizer().save_pretrained(folder)
        return
    for pattern in (*TOKENIZERS, "special_tokens_map.json", "added_tokens.json", "chat_template*"):
        for path in found.folder.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _write_card(found: TrainedModel, folder: Path, how: How, dtype: str) -> None:
    license, base_model = filled_in(found.folder)
    shown = Shown(
        is_adapter=how.adapter,
        base_beside=(folder / BASE).is_dir(),
        base_model=how.base_model or base_model,
        license=how.license or license,
        dtype=dtype,
        **({"name": how.name} if how.name else {}),
    )
    if found.run is not None:
        write_card(found.run, folder, shown)
    else:
        recipe = found.folder.parent / "recipe.json"
        write_plain_card(read_json(recipe) if recipe.is_file() else {}, folder, shown)


def _write_rendering(found: TrainedModel, folder: Path) -> None:
    """That of the run; of a folder that was exported before its own."""
    if found.run is not None:
        keep_rendering(found.run, folder)
    elif (found.folder / FILE).is_file():
        shutil.copyfile(found.folder / FILE, folder / FILE)


def _let_others_read(folder: Path) -> None:
    """Gives all files the rights of new ones: safetensors writes some that only their owner may read."""
    os.umask(mask := os.umask(0))
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
