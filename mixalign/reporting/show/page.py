"""One HTML file that holds a whole report: sentences, tables, figures and plotly's script. It asks no address."""

import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from mixalign.reporting.read.runs import Run
from mixalign.reporting.read.trials import Search
from mixalign.reporting.show.view import Page, page_of

__all__ = ["write_report"]

HERE = Path(__file__).parent
TEMPLATE, STYLE, SCRIPT = "page.html.j2", "page.css", "page.js"


def write_report(
    runs: Sequence[Run], path: str | Path, baseline: str | None = None, searches: Sequence[Search] = ()
) -> Path:
    """Write what these runs say as one self-contained HTML file, and return its path.

    Args:
        path: The file to write; its folder is made when it is missing.
        baseline: As in `compare`.
        searches: Those that made some of the runs.

    Raises:
        MixalignError: No run has scores.
    """
    text = _render(page_of(runs, baseline, searches))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _plotly() -> str:
    """The text of plotly's script; empty where it is not installed, and a page has its sentences and tables only."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        return ""
    return str(get_plotlyjs())


def _render(page: Page) -> str:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,  # the names of tasks and mixers are the user's
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plus_minus"] = _plus_minus
    environment.filters["code"] = _code
    environment.filters["unescaped"] = Markup  # a figure's JSON, which is safe within a script element
    style, script = (Markup((HERE / name).read_text(encoding="utf-8")) for name in (STYLE, SCRIPT))  # ours
    template = environment.get_template(TEMPLATE)
    return template.render(page=page, style=style, script=script, plotly=Markup(_plotly()))


def _code(text: str) -> Markup:
    """Escaped, with what stands in backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _plus_minus(text: str) -> str:
    """`0.1+-0.2` with the sign that ASCII lacks."""
    return text.replace("+-", " \u00b1 ")
