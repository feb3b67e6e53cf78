"""`mixalign report`: runs side by side, as a table and as one self-contained page."""

from pathlib import Path

from mixalign.reporting.page import write_report
from mixalign.reporting.runs import find_runs
from mixalign.reporting.table import compare

__all__ = ["run"]


def run(runs: list[Path], baseline: str | None = None, out: Path | None = None) -> None:
    """Prints the comparison and writes the page."""
    found = find_runs(runs)
    print(compare(found, baseline).to_text())
    page = write_report(found, out or runs[0] / "report.html", baseline)
    print(f"report: {page}")
