"""What a configuration file says of itself: its keys, each with the comment behind it, and the headings between."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

__all__ = ["Described", "Key", "describe"]

LINE = re.compile(r"(?P<indent> *)(?P<key>[\w./@ ]+):(?: (?P<value>.*?))??(?:\s+#\s(?P<comment>.*))?")
ITEM = re.compile(r" *- (?:override )?(?P<text>[^#]+?)(?:\s+#.*)?")
HIDDEN = ("_target_", "defaults", "hydra")  # of Hydra, not for users to set


@dataclass(frozen=True)
class Key:
    """One key of a file.

    Attributes:
        path: with those above it, as on the command line.
        value: as it stands there; empty where further keys follow below it.
        comment: what stands behind it and on the lines that go on with it.
        heading: the comment on a line of its own above it and its neighbours.
    """

    path: str
    value: str
    comment: str
    heading: str = ""


@dataclass
class Described:
    """A file.

    Attributes:
        about: the comment at its beginning, without what is for Hydra.
        keys: in their order.
        defaults: entries of its list of defaults, as `mixer: ama_s` or `_base`.
    """

    about: str = ""
    keys: list[Key] = field(default_factory=list)
    defaults: list[str] = field(default_factory=list)


def describe(path: Path) -> Described:
    """Reads keys and comments of a file of `conf/`, which is written one key a line."""
    found, heading, within = Described(), "", ""
    above: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        own = line.strip().removeprefix("#").strip() if line.lstrip().startswith("#") else None
        if not line.strip():
            heading = ""
        elif own is not None and line.startswith(" ") and found.keys:
            found.keys[-1] = replace(found.keys[-1], comment=f"{found.keys[-1].comment} {own}".strip())
        elif own is not None and (found.keys or found.defaults):
            heading = own
        elif own is not None and not own.startswith("@"):
            found.about = f"{found.about} {own}".strip()
        elif within == "defaults" and (item := ITEM.fullmatch(line)):
            found.defaults.append(item["text"])
        elif match := LINE.fullmatch(line):
            depth = len(match["indent"]) // 2
            above = [*above[:depth], match["key"]]
            within = above[0]
            if not set(HIDDEN) & set(above):
                key = Key(".".join(above), match["value"] or "", match["comment"] or "", heading if not depth else "")
                found.keys.append(key)
    return found
