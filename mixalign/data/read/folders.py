"""Which files of a folder are the rows of which split."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from mixalign.data.read.files import SHARD, SUFFIXES, check_shards, stem, suffix_of
from mixalign.data.read.table import SPLITS, canonical
from mixalign.errors import MixalignError

__all__ = ["CARDS", "SplitFiles", "is_saved", "split_files"]

log = logging.getLogger(__name__)

CARDS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")  # about rows, and no rows


@dataclass
class SplitFiles:
    """The files of a folder and of its folder `data`."""

    splits: dict[str, list[Path]] = field(default_factory=dict)  # split to its file, or its shards in order
    unread: list[Path] = field(default_factory=list)  # files with rows, by their suffix, that are no split


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` made it."""
    return (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file()


def split_files(folder: Path, *, deep: bool = True) -> SplitFiles:
    """The files `train.jsonl`, `dev.csv.gz`, `train-00000-of-00002.parquet` ... of a folder, by split.

    Shards may have any name, such as `train_sft-00000-of-00001.parquet`: a split is called like them.

    Args:
        deep: whether its folder `data`, where data sets of the hub have theirs, counts as well.

    Raises:
        MixalignError: when a split is there twice, such as train.jsonl and train.parquet, or lacks a shard.
    """
    found = SplitFiles()
    groups: dict[str, dict[tuple[Path, str], list[Path]]] = {}
    for place in (folder, folder / "data") if deep else (folder,):
        for file in sorted(place.iterdir() if place.is_dir() else ()):
            if not suffix_of(file.name) or file.name.startswith(".") or file.name in CARDS or not file.is_file():
                continue
            shard = SHARD.fullmatch(stem(file.name))
            name = shard["name"] if shard else stem(file.name)
            if shard or canonical(name) in SPLITS:
                kind = f"{name}-of-{shard['count']}{suffix_of(file.name)}" if shard else file.name
                groups.setdefault(canonical(name), {}).setdefault((place, kind), []).append(file)
            else:
                found.unread.append(file)
    for split, kinds in groups.items():
        if len(kinds) > 1:
            both = sorted((files[0] for files in kinds.values()), key=lambda file: _rank(split, file))
            names = ", ".join(file.relative_to(folder).as_posix() for file in both)
            raise MixalignError(f"folder {folder} has two files of one split: {names}. Keep one.")
        (files,) = kinds.values()
        check_shards(f"folder {folder}", [file.name for file in files])
        found.splits[split] = files
    return found


def _rank(split: str, file: Path) -> tuple[int, int]:
    names, name = SPLITS.get(split, ()), stem(file.name)
    return names.index(name) if name in names else len(names), SUFFIXES.index(suffix_of(file.name))
