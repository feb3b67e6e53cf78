"""Reads one file, or the files that a pattern matches, by their suffix: from a disk, or from wherever fsspec reads."""

import difflib
import gzip
import io
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from mixalign.data.read.parse import read_csv, read_json, read_json_lines
from mixalign.data.read.table import Table, Tables
from mixalign.errors import MixalignError
from mixalign.known import content_hash

__all__ = [
    "SHARD",
    "SUFFIXES",
    "check_shards",
    "guarded",
    "is_files",
    "is_remote",
    "local_files",
    "nearest",
    "read_file",
    "read_files",
    "stem",
    "suffix_of",
]

TEXTS: dict[str, Callable[..., Table]] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": partial(read_csv, delimiter="\t"),
}
COMPRESSED = (".gz", ".zst")  # behind one of the above
TABLES = (".parquet", ".arrow")
SUFFIXES = (*(f"{text}{end}" for text in TEXTS for end in ("", *COMPRESSED)), *TABLES)
KNOWN = f"{', '.join(TEXTS)} (each also with {' or '.join(COMPRESSED)} behind it), {', '.join(TABLES)}"
SHARD = re.compile(r"(?P<name>.+)-(?P<index>\d{3,})-of-(?P<count>\d{3,})(-\w+)?")  # of a file name's stem
PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "az": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "smb": "smbprotocol",
    "webhdfs": "requests",
}  # what fsspec reads them with


def suffix_of(path: str | Path) -> str:
    """`.jsonl.gz` of `math.jsonl.gz`; empty when it is not one that we read. Capitals are as good."""
    name = _shown(str(path)).lower()
    return max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default="")


def stem(name: str) -> str:
    """A file name without its suffix: `math.jsonl.gz` is `math`."""
    return name[: len(name) - len(suffix_of(name))]


def is_remote(path: str) -> bool:
    """Whether it is an address, such as https://... or s3://..."""
    return "://" in path


def is_files(path: str) -> bool:
    """Whether it can only be a file or a pattern of files: no folder, no split, no name on a hub."""
    return Path(os.path.expanduser(path)).is_file() or suffix_of(path) != "" or is_remote(path)


def read_files(path: str, *, skip_bad: bool = False) -> Tables:
    """One file, or those that a pattern such as `data/*.jsonl` matches, in the order of their names.

    Args:
        path: a path or an address (https://, s3://, ...), with or without `*`, `?` and `[...]`.
        skip_bad: whether lines that cannot be parsed are left out, and kept as the table's `bad` rows.

    Raises:
        MixalignError: when nothing matches, a shard is missing, or a file cannot be read.
    """
    if is_remote(path):
        scheme = path.partition("://")[0]
        if scheme in ("http", "https") or not has_magic(path):
            return [read_file(path, skip_bad=skip_bad)]  # a `?` of the web is no pattern
        with _remote(path) as filesystem:
            names = [f"{scheme}://{name.partition('://')[2] or name}" for name in filesystem.glob(path)]
    elif Path(os.path.expanduser(path)).is_file() or not has_magic(path):
        return [read_file(Path(os.path.expanduser(path)), skip_bad=skip_bad)]
    else:
        names = local_files(path)
    if not names:
        raise MixalignError(f"{path} matches no file. Relative paths start at {Path.cwd()}.")
    check_shards(path, names)
    return [read_file(name if is_remote(name) else Path(name), skip_bad=skip_bad) for name in sorted(names)]


def local_files(path: str) -> list[str]:
    """The file of that name here, or those that a pattern matches, in the order of their names; none if none is."""
    local = str(Path(os.path.expanduser(path)))
    names = [local] if Path(local).is_file() or not has_magic(path) else glob(local, recursive=True)
    return sorted(name for name in names if Path(name).is_file())


def check_shards(where: str, names: Sequence[str]) -> None:
    """Refuses files of which some are `train-00000-of-00003` and one of the three is not there."""
    there: dict[tuple[str, int], set[int]] = {}
    for name in names:
        if match := SHARD.fullmatch(stem(Path(name).name)):
            there.setdefault((match["name"], int(match["count"])), set()).add(int(match["index"]))
    for (name, count), found in there.items():
        if missing := sorted(set(range(count)) - found):
            raise MixalignError(
                f"{where} has {len(found)} of the {count} shards of `{name}`; number {missing[0]:05d} is missing. "
                "Fetch what is missing, or rename the files that are there."
            )


def read_file(path: str | Path, *, skip_bad: bool = False) -> Table:
    """One file, by its suffix.

    Args:
        path: a file here, or an address that fsspec reads.
        skip_bad: whether lines that cannot be parsed are left out, and kept as the table's `bad` rows.

    Raises:
        MixalignError: when it is missing or of another kind, or (with its number) a line is no JSON object.
    """
    where, suffix = _shown(str(path)), suffix_of(path)
    if isinstance(path, Path) and not path.is_file():
        raise MixalignError(f"{path} does not exist.{nearest(path)}")
    if isinstance(path, Path) and path.stat().st_size == 0:
        return Table(f"{path}, line", [], [])
    if not suffix:
        raise MixalignError(f"{where} has a suffix that is not known. Known: {KNOWN}.")
    if suffix == ".parquet" and isinstance(path, Path):
        # by its content, as `datasets` keeps what it read by place and time, which other rows may have as well
        rows = guarded(
            where, lambda d: d.load_dataset("parquet", content_hash(path)[:16], data_files=str(path), split="train")
        )
        return Table(f"{where}, row", range(1, len(rows) + 1), rows)
    if suffix in TABLES:
        rows = guarded(where, lambda d: _arrow(d, path, suffix))
        return Table(f"{where}, row", range(1, len(rows) + 1), rows)
    lines = _lines(where, path, suffix)
    return TEXTS[suffix.removesuffix(".gz").removesuffix(".zst")](where, lines, skip_bad=skip_bad)


def _lines(where: str, path: str | Path, suffix: str) -> Iterator[str]:
    try:
        with ExitStack() as stack:
            stream: Any = stack.enter_context(path.open("rb") if isinstance(path, Path) else io.BytesIO(_fetched(path)))
            if suffix.endswith(".gz"):
                stream = stack.enter_context(gzip.open(stream))
            elif suffix.endswith(".zst"):
                import pyarrow

                stream = stack.enter_context(pyarrow.CompressedInputStream(stream, "zstd"))
            yield from stack.enter_context(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""))
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise MixalignError(
            f"{where} cannot be read: {error}. It must be UTF-8 text, or gzip or zstd of it."
        ) from error


def _arrow(datasets: Any, path: str | Path, suffix: str) -> Any:
    """Rows of an Arrow file, of the stream or the file format, or of a parquet file that lies elsewhere."""
    import pyarrow
    from pyarrow import parquet

    source = pyarrow.memory_map(str(path)) if isinstance(path, Path) else pyarrow.BufferReader(_fetched(path))
    if suffix == ".parquet":
        table = parquet.read_table(source)
    else:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        table = (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(source).read_all()
    return datasets.Dataset(datasets.table.InMemoryTable(table))


def _fetched(url: str) -> bytes:
    with _remote(url) as filesystem:
        return bytes(filesystem.cat_file(url))


@contextmanager
def _remote(url: str) -> Iterator[Any]:
    """The file system of an address; what it raises is told in our words, without the query that may hold a key."""
    import fsspec

    where, scheme = _shown(url), url.partition("://")[0]
    try:
        yield fsspec.url_to_fs(url)[0]
    except ImportError as error:
        package = PACKAGES.get(scheme)
        cure = f"Install it: pip install {package}." if package else f"{error}."
        raise MixalignError(f"{where} cannot be read: {scheme}:// wants a package that is not there. {cure}") from error
    except FileNotFoundError as error:
        raise MixalignError(f"{where} does not exist. Check the address.") from error
    # what file systems of the network raise has no base class in common
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).replace(url, where).strip()[:300]}"
        raise MixalignError(
            f"{where} cannot be read ({reason}). Check the address, the network and what you may read there."
        ) from error


def _shown(path: str) -> str:
    """An address of the web without its query, which may hold a key; other paths as they are."""
    return re.split(r"[?#]", path)[0] if path.startswith(("http://", "https://")) else path


def guarded(path: str, load: Callable[[Any], Any], failed: str = "{path} cannot be read ({reason}).") -> Any:
    """Calls `load` with the module `datasets`, imported only here because that takes a second.

    Args:
        failed: the message for what is raised, with places for `path` and `reason`.

    Raises:
        MixalignError: for what `load` raises.
    """
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
        raise MixalignError(failed.format(path=path, reason=reason)) from error


def nearest(path: Path) -> str:
    """A sentence that names the entry of the deepest existing folder that is closest to the path."""
    parent = path.parent
    while not parent.is_dir():
        path, parent = parent, parent.parent
    names = {key: child.name for child in parent.iterdir() for key in (stem(child.name), child.name)}
    close = difflib.get_close_matches(path.name, names, n=1)
    return f" Did you mean {parent / names[close[0]]}?" if close else ""
