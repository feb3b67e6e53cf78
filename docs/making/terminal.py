"""Pictures of the terminal, from the display of a small run at 80 columns: `python docs/making/terminal.py`."""

import io
import logging
import re
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

from rich.console import Console, RenderableType
from rich.text import Text

from mixalign import bars, terminal, train
from mixalign.config import console as lines
from mixalign.config.compose import compose_settings
from mixalign.jobs.job import prepare
from mixalign.planning.plan import make_plan
from mixalign.planning.show import plan_text

PICTURES = Path(__file__).resolve().parents[1] / "pictures"
WIDTH = 80
KEPT = 12  # lines above the bar
SHOWN_AT = 0.6  # of the generalist's steps
RUN = (
    "mixer=ama_s",
    "steps=80",
    "specialists.steps=60",
    "reference.sft_steps=150",
    "batch_size=24",
    "trainer.accelerator=cpu",
    *(f"data.tasks.{task}=null" for task in ("format", "safe", "taste")),
)


class Unseen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


class Camera:
    """Keeps the lines that are printed, and takes one picture of the generalist's bar below the last of them."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.picture = ""
        self._refresh = bars.Bar.refresh

    def print_line(self, text: str) -> None:
        self.lines += terminal.wrap(text, WIDTH).split("\n")

    def refresh(self, bar: bars.Bar) -> None:
        """In the place of the bar's own."""
        self._refresh(bar)
        note = bar.note() if bar.note else ""
        is_late = bar.total and bar.done >= SHOWN_AT * bar.total
        if bar._live is None or self.picture or "validating" in note or not is_late:
            return
        if "generalist" in bar._progress.tasks[0].description:
            self.picture = picture("mixalign train mixer=ama_s", Text("\n".join(self.lines[-KEPT:])), bar._look())


def picture(title: str, *parts: RenderableType) -> str:
    """A terminal with some parts as SVG, in fonts that the reader has: nothing is loaded from elsewhere."""
    console = Console(width=WIDTH, record=True, file=io.StringIO(), force_terminal=True, highlight=False)
    for part in parts:
        console.print(part)
    made = console.export_svg(title=title, unique_id="terminal")
    return re.sub(r"\s*@font-face \{.*?\}", "", made, flags=re.DOTALL)


def draw(folder: Path, run: Sequence[str] = RUN) -> None:
    """Draws the plan of a run, the run while it trains, and what it prints at its end."""
    camera, printed = Camera(), io.StringIO()
    console = Console(file=Unseen(), width=WIDTH, force_terminal=True, highlight=False, markup=False)
    with (
        tempfile.TemporaryDirectory() as place,
        patch.object(terminal, "shared_console", lambda: console),
        patch.object(bars.Bar, "refresh", lambda bar: camera.refresh(bar)),
        patch.object(lines, "print_line", camera.print_line),
        patch.dict("os.environ", {"COLUMNS": str(WIDTH)}),
    ):
        lines.log_to_console()
        cache = f"cache_dir={place}/cache"
        with redirect_stdout(printed):
            train(*run, cache, run_dir=f"{place}/first")
        plan = plan_text(make_plan(prepare(compose_settings([*run, cache]))), colour=True, width=WIDTH)
    result = printed.getvalue().replace(f"{place}/", "runs/").rstrip()
    made = {
        "plan": picture("mixalign plan mixer=ama_s", Text.from_ansi(plan)),
        "training": camera.picture,
        "result": picture("mixalign train mixer=ama_s", Text(result)),
    }
    for name, text in made.items():
        (folder / f"terminal_{name}.svg").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    lines.quiet_libraries()
    logging.getLogger("mixalign").propagate = False
    draw(PICTURES)
