"""All splits of a source: files, folders, and what only the library `datasets` reads."""

import logging
import os
import re
from collections.abc import Mapping
from glob import has_magic
from pathlib import Path
from typing import Any

from mixalign.data.read.files import KNOWN, guarded, is_remote, nearest, read_file, read_files, suffix_of
from mixalign.data.read.folders import is_saved, split_files
from mixalign.data.read.table import Table, Tables
from mixalign.errors import MixalignError
from mixalign.hub import asked

__all__ = ["read_source"]

log = logging.getLogger(__name__)

BUILDERS = ("json", "parquet", "csv", "arrow", "text")  # of `datasets`, which need data_files


def read_source(path: str, arguments: Mapping[str, Any], *, skip_bad: bool = False) -> dict[str, Tables]:
    """All splits of a source.

    Args:
        path: a file, a pattern of files, an address of one (https://, s3://, ...), a folder of split files, a
            folder made by `save_to_disk`, a builder of `datasets`, or a hub id.
        arguments: those of `name`, `data_dir`, `data_files` and `revision` of `load_dataset` that are set.
        skip_bad: whether lines that cannot be parsed are left out, and kept as the tables' `bad` rows.

    Raises:
        MixalignError: when nothing can be read there.
    """
    local = Path(os.path.expanduser(path))
    is_pattern = is_remote(path) or (has_magic(path) and not local.exists())
    if (local.is_file() or is_pattern) and arguments:
        what = "the files of" if is_pattern else "the single file"
        raise MixalignError(f"{', '.join(arguments)} has no effect on {what} {path}. Remove it.")
    if local.is_file() or is_pattern:
        return {"train": read_files(path, skip_bad=skip_bad)}
    if local.is_dir() and not arguments:
        return _read_folder(local, skip_bad)
    if path in BUILDERS and "data_files" not in arguments:
        raise MixalignError(f"path: {path} reads the files in `data_files`, and that is not set. Set it.")
    if not local.is_dir() and (suffix_of(path) or not re.fullmatch(r"[\w.-]*\w(/[\w.-]+)?", path)):
        raise MixalignError(f"{path} does not exist.{nearest(local)} Relative paths start at {Path.cwd()}.")
    return _through_datasets(path, arguments)


def _read_folder(folder: Path, skip_bad: bool) -> dict[str, Tables]:
    if is_saved(folder):
        return _tables(str(folder), guarded(str(folder), lambda d: d.load_from_disk(str(folder))))
    found = split_files(folder)
    if not found.splits:
        there = ", ".join(sorted(child.name for child in folder.iterdir())[:10]) or "nothing"
        raise MixalignError(
            f"folder {folder} has no train file ({KNOWN}). It holds {there}. Name a file, a pattern such as "
            f"{folder}/*.jsonl, or set `data_files`."
        )
    if found.unread:
        names = ", ".join(file.relative_to(folder).as_posix() for file in found.unread[:10])
        log.warning("%s: not read, as these are names of no split: %s.", folder, names)
    return {split: [read_file(file, skip_bad=skip_bad) for file in files] for split, files in found.splits.items()}


def _through_datasets(path: str, arguments: Mapping[str, Any]) -> dict[str, Tables]:
    if path in BUILDERS or Path(os.path.expanduser(path)).is_dir():
        return _tables(path, guarded(path, lambda d: d.load_dataset(path, **arguments)))
    failed = (
        "`{path}` is neither a file or folder here nor a data set that the Hugging Face hub gives ({reason})."
        f"{nearest(Path(path))} Check `path`, `name`, `data_dir`, `data_files` and `revision`."
    )
    return _tables(path, guarded(path, lambda d: _from_hub(d, path, arguments), failed))


def _from_hub(datasets: Any, path: str, arguments: Mapping[str, Any]) -> Any:
    with asked(path, "dataset", arguments.get("revision")) as closed:
        try:
            return datasets.load_dataset(path, **arguments)
        except Exception as error:
            if closed is None:
                raise
            raise MixalignError(
                f"`{path}` is no file or folder here, {closed.reason}, and the cache "
                f"{datasets.config.HF_DATASETS_CACHE} does not hold it.{nearest(Path(path))} {closed.advice}"
            ) from error


def _tables(path: str, loaded: Any) -> dict[str, Tables]:
    """Of a Dataset or a DatasetDict."""
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    return {k: [Table(f"{path}, split {k}, row", range(1, len(v) + 1), v)] for k, v in splits.items()}
