"""One HTML file that holds a whole comparison: tables, sentences, pictures. It asks no other address."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mixalign.reporting.judge.comparison import compare
from mixalign.reporting.read.runs import Run
from mixalign.reporting.show.view import Page, page_of, plus_minus

__all__ = ["write_report"]

HERE = Path(__file__).parent
TEMPLATE, STYLE = "page.html.j2", "page.css"


def write_report(runs: Sequence[Run], path: str | Path, baseline: str | None = None) -> Path:
    """Write the comparison of these runs as one self-contained HTML file, and return its path.

    Args:
        path: The file to write; its folder is made when it is missing.
        baseline: As in `compare`.

    Raises:
        MixalignError: No run has scores.
    """
    comparison = compare(runs, baseline)
    text = _render(page_of([run for run in runs if not run.skipped], comparison))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _render(page: Page) -> str:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,  # the names of tasks and mixers are the user's
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plus_minus"] = plus_minus
    style = Markup((HERE / STYLE).read_text(encoding="utf-8"))  # ours, and not to be escaped
    return environment.get_template(TEMPLATE).render(page=page, style=style)
