"""Lists what a cache holds, and removes what is old: [FOLDER] [--kind K] [--older DAYS] [--remove]."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mixalign.errors import MixalignError
from mixalign.output import say
from mixalign.terminal import Column, table_text
from mixalign.upkeep.cache import KINDS, Entry, at_work, entries, remove, select, size_text

__all__ = ["main"]

COLUMNS = ("kind", "entries", "size", "not used for", Column("what it is", text=True))


def main() -> None:
    """`mixalign cache` with what stands behind it on the command line."""
    parser = argparse.ArgumentParser(
        "mixalign cache",
        description="Lists what a cache holds. Everything there can be made again, at the cost of training or reading "
        "it once more; a run that is not finished, and `mixalign evaluate`, want its specialists.",
    )
    add = parser.add_argument
    add("folder", type=Path, nargs="?", help="default: MIXALIGN_CACHE, or runs/cache", default=_default())
    add(
        "--kind",
        action="append",
        default=[],
        metavar="KIND",
        help=f"only one of {', '.join(KINDS)}; several times: all of them",
    )
    add("--older", type=_days, default=0.0, metavar="DAYS", help="only what was not used for so many days")
    add("--remove", action="store_true", help="remove it; asks first")
    add("--yes", action="store_true", help="do not ask")
    args = parser.parse_args()
    chosen = select(entries(args.folder), args.kind, args.older)
    say(_table(args.folder, chosen))
    if text := _unfinished(args.folder, chosen):
        say(text)
    if args.remove and chosen:
        _remove(args.folder, chosen, args.yes)


def _default() -> Path:
    return Path(os.environ.get("MIXALIGN_CACHE") or "runs/cache")


def _days(text: str) -> float:
    try:
        days = float(text.removesuffix("d"))
    except ValueError:
        days = -1.0
    if not 0 <= days < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days, such as 30")
    return days


def _table(folder: Path, chosen: Sequence[Entry]) -> str:
    rows = []
    for kind, about in KINDS.items():
        group = [one for one in chosen if one.kind == kind]
        if group:
            idle = f"{min(one.idle_days for one in group):.0f} days"
            rows.append([kind, str(len(group)), size_text(sum(one.size for one in group)), idle, about])
    if not rows:
        return f"{folder}: nothing of that."
    total = ["all", str(len(chosen)), size_text(sum(one.size for one in chosen)), "", ""]
    return table_text(COLUMNS, rows, totals=[total], title=str(folder))


def _unfinished(folder: Path, chosen: Sequence[Entry]) -> str:
    """Which trainings go on, and how many were stopped; a run holds a lock on what it makes."""
    trainings = [one for one in chosen if one.kind == "unfinished"]
    if not trainings:
        return ""
    now = len(at_work(folder, trainings))
    parts = [f"{now} of a run that is at work now"] * bool(now)
    if stopped := len(trainings) - now:
        parts.append(f"{stopped} stopped: the same command goes on from there")
    return f"unfinished: {'; '.join(parts)}."


def _remove(folder: Path, chosen: Sequence[Entry], sure: bool) -> None:
    if not sure:
        if not sys.stdin.isatty():
            raise MixalignError("`--remove` asks before it removes, and nobody can answer here. Add `--yes`.")
        answer = input(f"Remove these {len(chosen)} entries? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            say("Nothing was removed.")
            return
    removed, left = remove(folder, chosen)
    say(f"Removed {len(removed)} entries, {size_text(sum(one.size for one in removed))}.")
    if left:
        why = "Left, as a run makes them at this moment, or may, where the lock is another user's: "
        say(why + ", ".join(str(one.path) for one in left))
