"""Real rows and a trained model: whether they are at hand, and smaller copies of the rows."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixalign.config.settings import RunSettings
from mixalign.errors import MixalignError
from mixalign.files import replacing

__all__ = ["cut_rows", "why_not_at_hand"]

SPLITS = ("train", "validation", "test")
TEXTS = ("prompt", "chosen", "rejected", "completion")


def why_not_at_hand(settings: RunSettings) -> str:
    """Why such a run cannot begin here: its rows or the package of its model are missing; empty when it can."""
    if not Path(str(settings.data.root)).is_dir():
        return f"there are no rows in {settings.data.root}"
    try:
        getattr(settings.model, "path", None)  # of a package: that it is installed
    except MixalignError as error:
        return str(error)
    return ""


def cut_rows(
    source: Path, folder: Path, *, characters: int, shares: Mapping[str, float], validation: int, test: int
) -> Path:
    """Writes a task's folder for each of the source's, with .jsonl files: the short rows, in their order.

    What is there already is kept.

    Args:
        characters: most of a prompt and its longer answer together.
        shares: by task, of the rows to train on that are short enough.
        validation, test: most rows of these splits.

    Raises:
        MixalignError: when a split of a task has no row that is short enough.
    """
    if folder.is_dir():
        return folder
    with replacing(folder) as part:
        for task in sorted(path for path in source.iterdir() if path.is_dir()):
            (part / task.name).mkdir(parents=True)
            for split, most in zip(SPLITS, (None, validation, test), strict=True):
                rows = [row for row in _read(task, split) if _length(row) <= characters]
                kept = rows[: max(1, round(shares[task.name] * len(rows))) if most is None else most]
                if not kept:
                    raise MixalignError(f"No row of {task} ({split}) has {characters} characters or less; give more.")
                text = "".join(json.dumps(row) + "\n" for row in kept)
                (part / task.name / f"{split}.jsonl").write_text(text)
    return folder


def _read(task: Path, split: str) -> list[dict[str, Any]]:
    plain, packed = task / f"{split}.jsonl", task / f"{split}.jsonl.gz"
    text = plain.read_text() if plain.is_file() else gzip.decompress(packed.read_bytes()).decode()
    return [json.loads(line) for line in text.splitlines()]


def _length(row: dict[str, Any]) -> int:
    prompt, *answers = (len(row[name]) for name in TEXTS if name in row)
    return prompt + max(answers)
