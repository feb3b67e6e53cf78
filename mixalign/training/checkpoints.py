"""Checkpoints that are whole: written beside their place and renamed, and looked through before one is used."""

import logging
import pickle
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from mixalign.files import replacing

__all__ = ["LAST", "WholeCheckpoints", "newest_checkpoint"]

log = logging.getLogger(__name__)
LAST = "last.ckpt"


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's files, but never half of one under its name, also when its folder and /tmp are on two disks."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with replacing(Path(path)) as part:
            torch.save(checkpoint, part)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run that can be read, or None; says which ones cannot."""
    found = [path for path in (folder / "checkpoints").glob("*.ckpt") if path.is_file()]
    for path in sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name == LAST), reverse=True):
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            return path
        except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError, BadZipFile) as error:
            log.warning("%s cannot be read (%s): it is skipped.", path, str(error).splitlines()[0])
    return None
