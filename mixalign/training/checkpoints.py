"""Checkpoints are looked through before one is used."""

import hashlib
import logging
import zipfile
from pathlib import Path
from typing import Any

import torch

__all__ = [
    "LAST",
    "REST",
    "STOPPED",
    "checkpoint_name",
    "checkpoint_step",
    "is_checkpoint",
    "newest_checkpoint",
    "who_stopped",
    "why_unreadable",
]

log = logging.getLogger(__name__)
LAST = "last.ckpt"
STOPPED = "stopped_by_callback"  # key: who ended the training before its steps were made; empty when nobody did
REST = "meta.pt"  # in a folder with the parts of all processes: what is not spread over them, and written last


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of a run with the most steps that can be read, or None; says which ones cannot."""
    step_of: dict[Path, int] = {}
    for path in sorted((folder / "checkpoints").glob("*.ckpt")):
        content, reason = _examined(path)
        if reason is None:
            step_of[path] = int(content["global_step"])
        else:
            log.warning("%s cannot be read (%s): it is skipped.", path, reason)
    return max(step_of, key=lambda path: (step_of[path], path.name == LAST), default=None)


def checkpoint_step(path: Path) -> int:
    """Optimizer steps behind a checkpoint that can be read."""
    return int(_look_through(path)["global_step"])


def who_stopped(path: Path) -> str:
    """The callback that had ended the training of a checkpoint before its steps were made; empty when none had."""
    who = _look_through(path).get(STOPPED, "")
    return "a callback" if who is True else who or ""  # True: by an older version


def checkpoint_name(path: Path) -> str:
    """16 hexadecimal digits of a checkpoint's content, by the checksums in it; the same wherever it lies."""
    digest = hashlib.sha256((path / ".metadata").read_bytes() if path.is_dir() else b"")
    with zipfile.ZipFile(path / REST if path.is_dir() else path) as file:
        for entry in file.infolist():
            digest.update(f"{entry.filename.partition('/')[2]} {entry.CRC} {entry.file_size}\n".encode())
    return digest.hexdigest()[:16]


def why_unreadable(path: Path) -> str | None:
    """What is wrong with a file that should be a checkpoint; None when it can be read. Code in it is not run."""
    return _examined(path)[1]


def is_checkpoint(path: Path) -> bool:
    """Whether this may be a checkpoint: a file, or a folder with the parts of all processes."""
    return path.is_file() or (path / REST).is_file()


def _examined(path: Path) -> tuple[Any, str | None]:
    """What a checkpoint holds, and what is wrong with it."""
    try:
        content = _look_through(path)
    except Exception as error:  # torch, pickle and zipfile raise many types for files that are torn, or of others
        if "weights_only" in str(error):
            return None, "it holds pickled code or objects, which are not loaded"
        if "mmap can only be used" in str(error):
            return None, "it is no file of torch.save, or one of an old version, which may hold code"
        if "PytorchStreamReader" in str(error):
            return None, "it is torn"
        return None, " ".join(f"{type(error).__name__}: {error}".split())[:200]
    is_whole = isinstance(content, dict) and "global_step" in content
    return content, None if is_whole else "it is no checkpoint of a training"


def _look_through(path: Path) -> Any:
    """What it holds beside the parts of processes; raises one of several errors when a checkpoint is not whole."""
    content = torch.load(path / REST if path.is_dir() else path, map_location="cpu", weights_only=True, mmap=True)
    if not path.is_dir():
        return content
    from torch.distributed.checkpoint.filesystem import FileSystemReader  # takes a second

    sizes: dict[str, int] = {}
    for entry in (FileSystemReader(path).read_metadata().storage_data or {}).values():
        sizes[entry.relative_path] = max(sizes.get(entry.relative_path, 0), entry.offset + entry.length)
    for name, size in sizes.items():
        if (path / name).stat().st_size < size:
            raise EOFError(f"{name} has {(path / name).stat().st_size} of {size} bytes")
    return content
