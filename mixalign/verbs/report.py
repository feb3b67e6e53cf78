"""What runs say, as tables and as a self-contained page: RUNS... [--baseline MIXER] [--out F]."""

import argparse
from pathlib import Path

from mixalign.config.settings import names_a_run
from mixalign.reporting.read.labels import find_runs
from mixalign.reporting.read.trials import ended_by_search, searches_of
from mixalign.reporting.show.page import write_report
from mixalign.reporting.show.text import report_text
from mixalign.terminal import say_result

__all__ = ["main", "run"]


def main() -> None:
    """`mixalign report` with what stands behind it on the command line."""
    parser = argparse.ArgumentParser("mixalign report", description="What runs say: tables and a self-contained page.")
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, or folders that hold some")
    parser.add_argument("--baseline", help="mixer that the others are compared with; default: proportional")
    parser.add_argument("--out", type=Path, help="the page; default: report.html in the first folder")
    run(**vars(parser.parse_args()))


def run(runs: list[Path], baseline: str | None = None, out: Path | None = None) -> None:
    """Writes the page and prints the tables, of runs that cannot be compared one after the other."""
    loaded = find_runs(runs, names_a_run)
    searches = searches_of(runs, loaded)
    text = report_text(ended_by_search(loaded, searches), baseline)
    page = write_report(loaded, out or runs[0] / "report.html", baseline, searches)
    say_result(f"{text}\n\nreport: {page}")
