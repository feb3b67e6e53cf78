"""What a run's log warns of."""

import re
from pathlib import Path

__all__ = ["read_warnings"]

LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ (?:WARNING|ERROR) \S+: (.*)$")


def read_warnings(path: Path) -> tuple[str, ...]:
    """The warnings and errors in a `train.log`, each text once, in order; none where there is no such file."""
    if not path.is_file():
        return ()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return tuple(dict.fromkeys(match[1] for line in lines if (match := LINE.match(line))))
