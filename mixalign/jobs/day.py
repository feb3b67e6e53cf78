"""The day that a chat template prints: one for all runs of a cache, as others tokens would be another job's."""

import logging
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

from mixalign.checks import check_date
from mixalign.data.tokens.chat import prints_date
from mixalign.errors import MixalignError
from mixalign.files import may_write, write_text

__all__ = ["template_day"]

log = logging.getLogger(__name__)
FILE = "date.txt"


def template_day(tokenizer: Any, chosen: str | None, cache_dir: Path) -> str | None:
    """What the tokenizer's chat template takes for today, `2026-01-31`; None when it prints no date.

    Args:
        chosen: the setting `data.date`.
        cache_dir: keeps the day on which it was first asked for one.

    Raises:
        MixalignError: when the file of the cache holds no date, or is missing in a cache that is read-only.
    """
    if not prints_date(tokenizer.chat_template):
        return None
    day = chosen or _first_day(cache_dir / FILE)
    log.info("The chat template prints the date: it is %s for this run (`data.date`).", day)
    return day


def _first_day(path: Path) -> str:
    if not path.is_file():
        if not may_write(path.parent):
            raise MixalignError(
                f"The chat template prints the date, but {path}, which says which one, is missing, and this user may "
                f"not write to {path.parent}. Set `data.date`, such as 2026-01-31, or name another `cache_dir`."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
            file.write(date.today().isoformat())
    if not path.read_text(encoding="utf-8").strip():  # another process is writing it, or was killed before it did
        write_text(path, date.today().isoformat())
    day = path.read_text(encoding="utf-8").strip()
    check_date(str(path), day)
    return day
