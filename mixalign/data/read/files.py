"""Reads rows from where they lie: JSON files by ourselves, everything else through `datasets`."""

import csv
import difflib
import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixalign.errors import MixalignError, did_you_mean
from mixalign.hub import asked

__all__ = ["SUFFIXES", "Table", "read_file", "read_source", "select", "split_file", "stem"]

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet", ".csv")
MAYBE_JSON = " If the whole file is one array, call it .json."
BUILDERS = ("json", "parquet", "csv", "arrow", "text")  # of `datasets`, which need data_files
SPLITS = {"train": ("train",), "validation": ("validation", "valid", "dev"), "test": ("test",)}  # file names


@dataclass(frozen=True)
class Table:
    """The rows of one split, and where each of them was read."""

    place: str  # "tasks/math.jsonl, line": a row's number completes it
    numbers: Sequence[int]  # line or row number of each row, from 1
    rows: Any  # a list of objects, or a datasets.Dataset

    def located(self) -> Iterator[tuple[str, Any]]:
        for number, row in zip(self.numbers, self.rows, strict=True):
            yield f"{self.place} {number}", row

    def slice(self, start: int, stop: int) -> "Table":
        rows = self.rows
        rows = rows[start:stop] if isinstance(rows, list) else rows.select(range(start, stop))
        return Table(self.place, self.numbers[start:stop], rows)


def read_source(path: str, arguments: Mapping[str, Any]) -> dict[str, Table]:
    """All splits of a source.

    Args:
        path: a file, a folder of split files, a folder made by `save_to_disk`, a builder of `datasets`, or a
            hub id.
        arguments: those of `name`, `data_dir`, `data_files` and `revision` of `load_dataset` that are set.

    Raises:
        MixalignError: when nothing can be read there.
    """
    local = Path(path).expanduser()
    if local.is_file() and arguments:
        raise MixalignError(f"{', '.join(arguments)} has no effect on the single file {path}. Remove it.")
    if local.is_file():
        return {"train": read_file(local)}
    if local.is_dir() and not arguments:
        return _read_folder(local)
    if path in BUILDERS and "data_files" not in arguments:
        raise MixalignError(f"path: {path} reads the files in `data_files`, and that is not set. Set it.")
    if not local.is_dir() and (path.endswith(SUFFIXES) or not re.fullmatch(r"[\w.-]*\w(/[\w.-]+)?", path)):
        raise MixalignError(f"{path} does not exist.{_nearest(local)} Relative paths start at {Path.cwd()}.")
    return _through_datasets(path, arguments)


def read_file(path: Path) -> Table:
    """One local file, by its suffix.

    Raises:
        MixalignError: when it is missing or of another kind, or (with its number) a line is no JSON object.
    """
    if not path.is_file():
        raise MixalignError(f"{path} does not exist.{_nearest(path)}")
    if path.stat().st_size == 0:
        return Table(f"{path}, line", [], [])
    if path.name.endswith(".parquet"):
        options = {"data_files": str(path), "split": "train"}
        return _tables(str(path), _guarded(str(path), lambda d: d.load_dataset("parquet", **options)))["train"]
    if not path.name.endswith(SUFFIXES):
        raise MixalignError(f"{path} has a suffix that is not known. Known: {', '.join(SUFFIXES)}.")
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as stream:
            lines = list(stream)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise MixalignError(f"{path} cannot be read: {error}. It must be UTF-8 text, or gzip of it.") from error
    if path.suffix == ".csv":
        return _csv(path, lines)
    first = next((line.lstrip()[0] for line in lines if line.strip()), "")
    if first == "[" and ".jsonl" not in path.name:
        return _json_array(path, "".join(lines))
    return _json_lines(path, lines)


def _csv(path: Path, lines: list[str]) -> Table:
    """Every cell as it is written: no column of numbers, and "NA" is a word."""
    limit = csv.field_size_limit(2**31 - 1)  # of characters in a cell, for the whole process
    try:
        reader = csv.reader(lines, strict=True)
        header = next(reader, [])
        if twice := [name for name in dict.fromkeys(header) if header.count(name) > 1]:
            raise MixalignError(f"{path} has two columns `{twice[0]}`. Rename or remove one.")
        numbers, rows, start = [], [], reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(header):
                raise MixalignError(
                    f"{path}, line {start} has {len(cells)} cells, but the first line names {len(header)} columns. Put "
                    "quotes around cells with commas, quotes or line breaks."
                )
            if cells:
                numbers.append(start)
                rows.append(dict(zip(header, cells, strict=True)))
            start = reader.line_num + 1
        return Table(f"{path}, line", numbers, rows)
    except csv.Error as error:
        raise MixalignError(
            f"{path}, line {reader.line_num} is no CSV ({error}). A quote within a quoted cell is written twice."
        ) from error
    finally:
        csv.field_size_limit(limit)


def _json_lines(path: Path, lines: list[str]) -> Table:
    numbers, rows = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        rows.append(_json(line, f"{path}, line {number}", line, MAYBE_JSON if line.strip() == "[" else ""))
        numbers.append(number)
        if not isinstance(rows[-1], dict):
            raise MixalignError(
                f"{path}, line {number} is a JSON {type(rows[-1]).__name__}, not an object: "
                f"`{_snippet(line)}`. "
                'Every line wants one object, such as {"prompt": "...", "completion": "..."}.'
            )
    return Table(f"{path}, line", numbers, rows)


def _json_array(path: Path, text: str) -> Table:
    rows = _json(text, str(path), text)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise MixalignError(f"{path}, row {number} is not an object: `{_snippet(json.dumps(row))}`.")
    return Table(f"{path}, row", range(1, len(rows) + 1), rows)


def _json(text: str, place: str, context: str, hint: str = "") -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        at = getattr(error, "pos", 0)
        snippet = _snippet(context[max(0, at - 30) :])
        cure = f"Correct or remove it.{hint}"
        raise MixalignError(f"{place} is not valid JSON ({error}), near `{snippet}`. {cure}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different; `json` would keep the last of two."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"`{next(name for name in names if names.count(name) > 1)}` is there twice in one object")
    return found


def _snippet(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."


def _read_folder(folder: Path) -> dict[str, Table]:
    if (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file():
        return _tables(str(folder), _guarded(str(folder), lambda d: d.load_from_disk(str(folder))))
    files = {split: file for split in SPLITS if (file := split_file(folder, split))}
    if "train" not in files:
        there = ", ".join(sorted(child.name for child in folder.iterdir())[:10]) or "nothing"
        raise MixalignError(
            f"folder {folder} has no train file ({', '.join(SUFFIXES)}). It holds {there}. Name a file, or "
            "set `data_files`."
        )
    return {split: read_file(file) for split, file in files.items()}


def split_file(folder: Path, split: str) -> Path | None:
    """The file of a split in a folder, or None.

    Raises:
        MixalignError: when there are two, such as train.jsonl and train.parquet.
    """
    candidates = [folder / f"{name}{suffix}" for name in SPLITS[split] for suffix in SUFFIXES]
    found = [file for file in candidates if file.is_file()]
    if len(found) > 1:
        raise MixalignError(f"folder {folder} has two files of one split: {found[0].name}, {found[1].name}. Keep one.")
    return found[0] if found else None


def stem(name: str) -> str:
    """A file name without its suffix: `math.jsonl.gz` is `math`."""
    suffix = max((s for s in SUFFIXES if name.endswith(s)), key=len, default="")
    return name.removesuffix(suffix)


def _through_datasets(path: str, arguments: Mapping[str, Any]) -> dict[str, Table]:
    if path in BUILDERS or Path(path).expanduser().is_dir():
        return _tables(path, _guarded(path, lambda d: d.load_dataset(path, **arguments)))
    return _tables(path, _guarded(path, lambda d: _from_hub(d, path, arguments)))


def _from_hub(datasets: Any, path: str, arguments: Mapping[str, Any]) -> Any:
    with asked(path, "dataset", arguments.get("revision")) as closed:
        try:
            return datasets.load_dataset(path, **arguments)
        except Exception as error:
            if closed is None:
                raise
            raise MixalignError(
                f"`{path}` is no file or folder here, {closed.reason}, and the cache "
                f"{datasets.config.HF_DATASETS_CACHE} does not hold it.{_nearest(Path(path))} {closed.advice}"
            ) from error


def _tables(path: str, loaded: Any) -> dict[str, Table]:
    """Of a Dataset or a DatasetDict; `valid` and `dev` are called validation where it has none."""
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    tables = {k: Table(f"{path}, split {k}, row", range(1, len(v) + 1), v) for k, v in splits.items()}
    other = next((name for name in ("valid", "dev") if name in tables), None)
    return tables if "validation" in tables or other is None else tables | {"validation": tables[other]}


def _guarded(path: str, load: Callable[[Any], Any]) -> Any:
    """Calls `load` with the module `datasets`, imported only here because that takes a second."""
    import datasets

    try:
        return load(datasets)
    except MixalignError:
        raise
    # what datasets, huggingface_hub, pyarrow and httpx raise for a bad source has no base class in common
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip()[:300]}"
        if "corresponds to no data" in reason:  # a table of columns without rows
            raise MixalignError(f"{path} is empty: it has no rows. Fill it or remove it.") from error
        if Path(path).expanduser().exists() or path in BUILDERS:
            raise MixalignError(f"{path} cannot be read ({reason}).") from error
        raise MixalignError(
            f"`{path}` is neither a file or folder here nor a data set that the Hugging Face hub gives ({reason})."
            f"{_nearest(Path(path))} Check `path`, `name`, `data_dir`, `data_files` and `revision`."
        ) from error


def _nearest(path: Path) -> str:
    """A sentence that names the entry of the deepest existing folder that is closest to the path."""
    parent = path.parent
    while not parent.is_dir():
        path, parent = parent, parent.parent
    names = {key: child.name for child in parent.iterdir() for key in (stem(child.name), child.name)}
    close = difflib.get_close_matches(path.name, names, n=1)
    return f" Did you mean {parent / names[close[0]]}?" if close else ""


def select(tables: Mapping[str, Table], expression: str) -> list[Table]:
    """The rows that a split expression names, such as `train`, `train[:5%]` or `train[:100]+test`.

    Raises:
        MixalignError: when a split does not exist or the expression cannot be read.
    """
    if expression in tables:
        return [tables[expression]]
    for part in expression.split("+"):
        if (name := part.split("[")[0].strip()) not in tables:
            raise MixalignError(f"split `{expression}`: there is no split `{name}`. {did_you_mean(name, tables)}")
    from datasets import ReadInstruction

    try:
        instruction = ReadInstruction.from_spec(expression)
        parts = instruction.to_absolute({name: len(table.numbers) for name, table in tables.items()})
    except (ValueError, AssertionError) as error:
        raise MixalignError(f"split `{expression}` cannot be read: {error}. Write `train[:5%]`.") from error
    return [tables[part.splitname].slice(part.from_ or 0, part.to) for part in parts]
