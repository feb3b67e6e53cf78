"""Merges folders that `save_pretrained` wrote, one parameter of all models at a time.

A model is a folder of safetensors (one file or shards), or a LoRA adapter, whose task vector is its true change of
every weight, `scale * B A`. (PEFT's own `linear`, `ties` and `dare_*` merge A and B separately, which adds cross
terms.) The result is a full model with the files, shards and types of the base, or of the first model without one.
"""

import errno
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixalign.errors import MixalignError
from mixalign.merging.formulas import least_kept
from mixalign.merging.methods import METHODS, Merge
from mixalign.merging.read import INDEX, Adapter, Weights, find_base, model_folder, open_model
from mixalign.models.adapters import ADAPTER, TRAINED_ON

__all__ = ["Merged", "fresh_folder", "merge_folders"]

log = logging.getLogger(__name__)

Source = Weights | Adapter
SAME_SETTINGS = ("model_type", "num_attention_heads", "num_key_value_heads", "hidden_act", "tie_word_embeddings")
WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx")
NOT_COPIED = (INDEX, "README.md", ADAPTER, TRAINED_ON, "training_args.bin", "merge.json")


def merge_folders(models: Sequence[Path], how: Merge, out: Path, base: Path | None = None) -> None:
    """Writes the merge of some models as a folder that transformers loads.

    Args:
        models: folders of full models or adapters, runs, or cached specialists.
        out: gets the weights, the configuration and tokenizer of the base, and merge.json: what was merged and how.
            It is written beside its place and renamed.
        base: the model that all of them started from; None: the one that adapters name.

    Raises:
        MixalignError: when the models do not fit each other, the method or the weights, or `out` is taken.
    """
    with fresh_folder(out) as folder:
        Merged(models, how, base).write(folder)


@contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into, renamed to `out` at the end; removed when anything fails.

    Raises:
        MixalignError: when `out` is taken.
    """
    taken = MixalignError(f"{out} already exists. Choose another place, or delete it.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise taken
    out = out.resolve()
    part = out.with_name(f".{out.name}.{os.getpid()}")
    part.mkdir(parents=True)
    try:
        yield part
        try:
            if out.exists():
                out.rmdir()
            part.replace(out)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another merge was faster
                raise taken from error
            raise
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


class Merged:
    """Several models, opened and found to fit each other; merged parameter by parameter."""

    def __init__(self, models: Sequence[Path], how: Merge, base: Path | None = None) -> None:
        self.how, self.weight_M = how, how.weight_M(len(models))
        folders = [model_folder(path) for path in models]
        self.base = find_base(folders, base)
        self.on_deltas = METHODS[how.method].on_deltas
        if self.on_deltas and self.base is None:
            raise MixalignError(
                f"`{how.method}` merges differences to the model that all of them started from. Give it: --base FOLDER."
            )
        self.sources: list[Source] = [open_model(folder, self.base) for folder in folders]
        like = self.base or self.sources[0]
        assert isinstance(like, Weights)
        self.like = like
        for source in self.sources:
            _check(source, self.like)
        self.threshold_M = self._thresholds() if how.method == "ties" and how.trim == "model" else None

    def tensor(self, name: str) -> Tensor:
        """One parameter of the merge, in the type of the base."""
        own = self.like.read(name)
        if not own.is_floating_point():
            return self._equal_in_all(name, own)
        start = own.float()
        x_M = torch.empty(len(self.sources), *own.shape)
        for x, source in zip(x_M, self.sources, strict=True):
            x.copy_(source.tau(name, start) if self.on_deltas else source.theta(name))
        merged = self.how.apply(x_M, self.weight_M, name, self.threshold_M)
        return (start + merged if self.on_deltas else merged).to(own.dtype)

    def reweigh(self, how: Merge) -> None:
        """Takes the weights and the scale of `how`, which must be the same in all else."""
        assert replace(how, weights=self.how.weights, scale=self.how.scale) == self.how
        self.how, self.weight_M = how, how.weight_M(len(self.sources))

    def write(self, folder: Path) -> None:
        """Fills a folder: weights in the shards of the base, the other files of base and models, merge.json."""
        files: dict[str, list[str]] = {}
        for name in self.like.names:
            files.setdefault(self.like.file_of[name], []).append(name)
        for file, names in files.items():
            self._write_file(folder / file, names)
        if list(files) != ["model.safetensors"]:
            self._write_index(folder / INDEX)
        _copy_others(self.like.folder, folder)
        if not (folder / "tokenizer_config.json").is_file():
            _copy_others(self.sources[0].folder, folder)
        self._write_template(folder)
        settings = asdict(self.how) | {"weights": self.weight_M.tolist()}
        origin = {"models": [str(s.folder) for s in self.sources], "base": str(self.base.folder) if self.base else None}
        (folder / "merge.json").write_text(json.dumps(settings | origin, indent=2) + "\n")

    def _write_template(self, folder: Path) -> None:
        """The chat template that all models were trained with goes before that of the base."""
        texts = {text for source in self.sources if (text := _chat_template(source.folder))}
        text = texts.pop() if len(texts) == 1 else None
        if texts:
            log.warning("The models have different chat templates: the merge gets that of %s.", self.like.folder)
        elif text and text != _chat_template(folder):
            (folder / "chat_template.jinja").write_text(text, encoding="utf-8")

    def _write_file(self, path: Path, names: list[str]) -> None:
        """The safetensors format: length of the header, header, tensors; written by hand to hold one tensor at most."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        names = sorted(names, key=lambda name: -_itemsize(self.like.header(name)[0]))  # aligned, as readers expect
        for name in names:
            start, end = end, end + self._bytes(name)
            dtype, shape = self.like.header(name)
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                file.write(self.tensor(name).contiguous().view(-1).view(torch.uint8).numpy().data)

    def _write_index(self, path: Path) -> None:
        names = self.like.names
        parameters = sum(math.prod(self.like.header(name)[1]) for name in names)
        sizes = {"total_parameters": parameters, "total_size": sum(map(self._bytes, names))}
        path.write_text(json.dumps({"metadata": sizes, "weight_map": self.like.file_of}, indent=2) + "\n")

    def _bytes(self, name: str) -> int:
        dtype, shape = self.like.header(name)
        return _itemsize(dtype) * math.prod(shape)

    def _thresholds(self) -> list[float]:
        """Of each model, the least magnitude that TIES keeps."""

        def taus(source: Source) -> Iterator[Tensor]:
            for name in self.like.names:
                own = self.like.read(name)
                if own.is_floating_point():
                    yield source.tau(name, own.float())

        return [least_kept(partial(taus, source), self.how.density) for source in self.sources]

    def _equal_in_all(self, name: str, own: Tensor) -> Tensor:
        """A buffer of integers, which has no average."""
        for source in self.sources:
            if not torch.equal(source.read(name), own):
                raise MixalignError(
                    f"`{name}` holds {own.dtype} numbers, which have no average, and {source.folder} has others than "
                    f"{self.like.folder}. Merge models that agree on it."
                )
        return own


def _itemsize(dtype: str) -> int:
    """Bytes of a type as safetensors names it: BF16, F32, I64, F8_E4M3, BOOL."""
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) // 8 if bits else 1


def _check(source: Source, like: Weights) -> None:
    """Refuses a model that cannot be averaged with another one."""
    pair = f"{source.folder} and {like.folder}"
    for key in SAME_SETTINGS:
        mine, wanted = source.config.get(key), like.config.get(key)
        if mine != wanted:
            raise MixalignError(
                f"{pair} differ in `{key}` of config.json: {mine} and {wanted}. Only models of one architecture that "
                "started from the same weights can be merged."
            )
    missing, extra = set(like.names) - set(source.names), set(source.names) - set(like.names)
    if missing or extra:
        whose = f"lacks `{min(missing)}`" if missing else f"has `{min(extra)}` as well"
        raise MixalignError(
            f"{source.folder} {whose}: it and {like.folder} differ in {len(missing) + len(extra)} tensors. Only models "
            "of one architecture can be merged."
        )
    for name in like.names:
        mine, wanted = source.header(name)[1], like.header(name)[1]
        if mine != wanted:
            raise MixalignError(
                f"{pair} differ in the shape of `{name}`: {mine} and {wanted}. Where only the number of tokens "
                "differs, resize the embeddings of one of them to the other's vocabulary first."
            )
    _check_vocabulary(source.folder, like.folder)


def _check_vocabulary(folder: Path, other: Path) -> None:
    """Refuses tokenizers that number tokens differently; silent where a folder has none."""
    mine, wanted = _vocabulary(folder), _vocabulary(other)
    if not mine or not wanted or mine == wanted:
        return
    token = min(t for t in mine.keys() | wanted.keys() if mine.get(t) != wanted.get(t))
    raise MixalignError(
        f"{folder} and {other} differ in their vocabularies: the token {token!r} is number {mine.get(token)} and "
        f"{wanted.get(token)}. Rows of their embeddings mean different tokens, so they cannot be merged."
    )


def _vocabulary(folder: Path) -> dict[str, int]:
    path = folder / "tokenizer.json"
    if not path.is_file():
        return {}
    content = json.loads(path.read_text())
    vocab = content["model"].get("vocab", {})
    if isinstance(vocab, list):  # Unigram: [token, score], numbered by place
        vocab = {token: number for number, (token, _) in enumerate(vocab)}
    numbers: dict[str, int] = vocab | {added["content"]: added["id"] for added in content.get("added_tokens", [])}
    return numbers


def _chat_template(folder: Path) -> str | None:
    """The chat template of a saved tokenizer; None where there is no single one."""
    path, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    text = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None
    return text if isinstance(text, str) else None


def _copy_others(source: Path, folder: Path) -> None:
    """Copies configuration, tokenizer and code that come with a model, and nothing that is there already."""
    for path in source.iterdir():
        known = path.suffix in WEIGHT_FILES or path.name in NOT_COPIED or path.name.startswith((".", "trainer_state"))
        if path.is_file() and not known and not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)
