"""Looks at libraries, processors, memory, disk, the hub and W&B: [--cache FOLDER] [--no-network]."""

import argparse
import os
import textwrap
from pathlib import Path

from mixalign.config.console import quiet_libraries
from mixalign.output import say
from mixalign.terminal import terminal_width
from mixalign.upkeep.cache import entries, size_text
from mixalign.upkeep.doctor import Finding, examine

__all__ = ["main"]

NAMES = 11  # columns


def main() -> None:
    """`mixalign doctor` with what stands behind it on the command line."""
    quiet_libraries()
    parser = argparse.ArgumentParser("mixalign doctor", description="What a run would find on this machine.")
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("MIXALIGN_CACHE") or "runs/cache"))
    parser.add_argument(
        "--no-network", dest="network", action="store_false", help="do not ask the hub whether it is there"
    )
    args = parser.parse_args()
    amiss = 0
    for finding in examine(args.cache, Path("runs"), args.network):
        say(_text(finding))
        amiss += bool(finding.advice)
    if args.cache.is_dir():
        found = entries(args.cache)
        say(
            _text(
                Finding("cached", f"{len(found)} entries, {size_text(sum(one.size for one in found))}: mixalign cache")
            )
        )
    say("\nNothing is amiss." if not amiss else f"\n{amiss} to look at, marked by !")


def _text(finding: Finding) -> str:
    fill = textwrap.TextWrapper(
        terminal_width() - 1, subsequent_indent=" " * NAMES, break_long_words=False, break_on_hyphens=False
    )
    lines = [fill.fill(f"{finding.what:{NAMES}}{finding.found}")]
    if finding.advice:
        lines.append(fill.fill(f"{'':{NAMES}}! {finding.advice}"))
    return "\n".join(lines)
