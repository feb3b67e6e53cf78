"""Named arrays and a note in one safetensors file, read through a read-only memory map."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mixalign.errors import MixalignError
from mixalign.files import replacing

__all__ = ["load_arrays", "save_arrays"]

CHUNK = 1 << 18  # entries that are written together
DTYPES = {"BOOL": np.bool_, "I32": np.int32, "I64": np.int64, "F32": np.float32, "F64": np.float64}


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], note: str, value: Any) -> None:
    """Writes the file beside its place and renames it, so that a reader never sees half of one.

    Args:
        arrays: bool, int32, int64, float32 or float64.
        note: name in the header for `value`, which is JSON-like.
    """
    text = json.dumps(value, sort_keys=True)
    with replacing(path) as part:
        save_file(arrays, part, {note: text, "crc32": str(zlib.crc32(text.encode()))})


def save_file(arrays: Mapping[str, np.ndarray], path: Path, metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file a part of an array at a time; the library's own copies all of them first."""
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    order = sorted(arrays, key=lambda key: (-arrays[key].itemsize, key))  # widest first: each is aligned
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for key in order:
        start, end = end, end + arrays[key].nbytes
        header[key] = {"dtype": names[arrays[key].dtype], "shape": arrays[key].shape, "data_offsets": [start, end]}
    first = json.dumps(header, separators=(",", ":")).encode()
    first += b" " * (-len(first) % 8)
    with open(path, "wb") as file:
        file.write(len(first).to_bytes(8, "little") + first)
        for key in order:
            for at in range(0, len(arrays[key]), CHUNK):
                file.write(np.ascontiguousarray(arrays[key][at : at + CHUNK]).tobytes())


def load_arrays(
    path: Path, kind: str, note: str, dtypes: Mapping[str, type], optional: Mapping[str, type] | None = None
) -> tuple[dict[str, np.ndarray], Any]:
    """Maps the arrays that `dtypes` names; nothing but the header is read.

    A change of any byte of the header is noticed, and a file that was cut; a change in the middle of an array is not,
    because that would mean to read all of it.

    Args:
        kind: what the file is, for messages.
        note: name of the value in the header, which comes back beside the arrays.
        optional: arrays that are read where the file has them.

    Raises:
        MixalignError: when the file is damaged, or not one with these arrays and this note.
    """
    try:
        text, entries = _header(path, note)
        raw = np.asarray(np.memmap(path, np.uint8, "r"))
        wanted = {**dtypes, **{name: dtype for name, dtype in (optional or {}).items() if name in entries}}
        arrays = {name: _view(raw, entries[name], name, dtype) for name, dtype in wanted.items()}
        return arrays, json.loads(text)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise MixalignError(f"The {kind} {path} is damaged ({error}). Delete it to have it made again.") from error


def _header(path: Path, note: str) -> tuple[str, dict[str, Any]]:
    """The note as text, and where each array lies in the file."""
    # safetensors checks the whole header against the size of the file, but gives copies of arrays, or with torch a
    # private writable map, which Linux refuses for a file that is larger than the memory
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    text = metadata[note]
    if "crc32" in metadata and zlib.crc32(text.encode()) != int(metadata["crc32"]):
        raise ValueError(f"`{note}` was changed")
    with open(path, "rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        entries = json.loads(stream.read(size))
    return text, {name: entry | {"base": 8 + size} for name, entry in entries.items()}


def _view(raw: np.ndarray, entry: Mapping[str, Any], name: str, dtype: type) -> np.ndarray:
    if DTYPES[entry["dtype"]] is not dtype:
        raise ValueError(f"{name} is {entry['dtype']}")
    start, stop = (entry["base"] + offset for offset in entry["data_offsets"])
    return raw[start:stop].view(dtype).reshape(entry["shape"])
