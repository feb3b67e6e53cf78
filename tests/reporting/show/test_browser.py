"""The page in a browser without a window: figures are there, what one clicks hides and shows, nothing complains."""

import html
import importlib
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mixalign.reporting.show.page import write_report
from tests.reporting.made_up import COSTS, find

ROOT = Path(__file__).resolve().parents[3]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--virtual-time-budget=20000",
    "--enable-logging=stderr",
    "--v=0",
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium is installed"),
]
PROBE = """<script>addEventListener("load", () => setTimeout(() => {
  const all = (what, where = document) => [...where.querySelectorAll(what)];
  const figures = all("figure"), plot = (one) => one.querySelector(".plot");
  const shown = (run) => figures.map((one) => (plot(one).data || []).filter(
    (trace) => trace.meta.run === run && trace.visible === true).length);
  const button = (name) => all(".legend button").find((one) => one.dataset.name === name);
  const out = {
    figures: figures.length, drawn: figures.filter((one) => one.querySelector("svg.main-svg")).length,
    cut: figures.filter((one) => Math.abs(plot(one).clientWidth
      - one.querySelector("svg.main-svg").clientWidth) > 1).length,
    wide: document.documentElement.scrollWidth, window: innerWidth,
    paper: getComputedStyle(document.body).backgroundColor,
    white: all("rect.bg").filter((one) => /255, 255, 255/.test(getComputedStyle(one).fill)
      && getComputedStyle(one).fillOpacity !== "0").length,
    bars: all("figure .modebar-btn").length,
    before: shown("uniform"), labels: all("select option").map((one) => one.value),
  };
  button("uniform").focus();
  button("uniform").click();
  out.focus = document.activeElement === button("uniform");
  out.unreached = all(".legend button, select, summary, nav a").filter((one) => one.tabIndex < 0).length;
  out.hidden = shown("uniform"); out.pressed = button("uniform").getAttribute("aria-pressed");
  button("uniform").click(); out.again = shown("uniform");
  const select = document.querySelector("select");
  select.value = "uniform"; select.dispatchEvent(new Event("change")); out.chosen = shown("uniform");
  button("b").dispatchEvent(new MouseEvent("click", { shiftKey: true }));
  out.tasks = all(".legend button").filter((one) => ["a", "b"].includes(one.dataset.name))
    .map((one) => one.dataset.name + one.getAttribute("aria-pressed"));
  document.body.innerHTML = "<pre id=probe></pre>"; document.getElementById("probe").textContent = JSON.stringify(out);
}, 1500));</script></body>"""


ON_PAPER = """<script>addEventListener("load", () => setTimeout(() => {
  dispatchEvent(new Event("beforeprint"));
  setTimeout(() => {
    const all = (what) => [...document.querySelectorAll(what)];
    const edge = document.querySelector("body").getBoundingClientRect().right;
    const out = {
      cut: all("td, th, svg.main-svg").filter((one) => one.getBoundingClientRect().right > edge + 1).length,
      shut: all("details:not([open])").map((one) => one.className), wide: all("table.wide").length,
      paper: getComputedStyle(document.body).backgroundColor, drawn: all("figure svg.main-svg").length > 0,
      links: all("nav").filter((one) => one.clientHeight > 0).length,
    };
    document.body.innerHTML = "<pre id=probe></pre>";
    document.getElementById("probe").textContent = JSON.stringify(out);
  }, 1500);
}, 1500));</script></body>"""


def opened(page, profile, width, *flags):
    """What a page's probe found in a window of this width, and what the browser complains of."""
    command = [BROWSER, *FLAGS, *flags, f"--user-data-dir={profile}", f"--window-size={width},9000"]
    done = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr
    return json.loads(html.unescape(found[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture
def look(write_run, tmp_path):
    """Opens a page of two labels and three seeds with a probe, in a window of this width; what it found."""
    pytest.importorskip("plotly.offline", reason="plotly is not installed")
    for mixer, worst in (("ama_s", 0.1), ("uniform", 0.3)):
        for seed in range(3):
            costs = COSTS["plain"][0]
            write_run(mixer, seed, {"a": 0.02, "b": worst + 0.01 * seed}, costs=costs, target=[0.2, 0.8])
    page = write_report(find(tmp_path / "runs"), tmp_path / "report.html")
    page.write_text(page.read_text().replace("</body>", PROBE))

    def open_it(width, *flags):
        return opened(page, tmp_path / "profile", width, *flags)

    return open_it


@pytest.mark.long
def test_figures_are_there_and_a_legend_hides_a_run_in_all_of_them(look):
    found, complaints = look(1200)
    assert complaints == []
    assert found["drawn"] == found["figures"] == 9
    assert sum(count > 0 for count in found["before"]) == 3  # the curves, the costs and the front
    assert found["labels"] == ["ama_s", "uniform"]
    assert found["bars"] > 0
    assert (sum(found["hidden"]), found["pressed"]) == (0, "false")
    assert found["again"] == found["before"]
    assert (found["focus"], found["unreached"]) == (True, 0), "a keyboard reaches all, and stays where it was"
    assert sum(found["chosen"]) > sum(found["before"])  # figures of one run show it now
    assert set(found["tasks"]) == {"afalse", "btrue"}


@pytest.mark.long
def test_on_a_phone_in_the_dark_nothing_is_pushed_aside_and_nothing_is_white(look):
    found, complaints = look(420, "--force-dark-mode", "--blink-settings=preferredColorScheme=0")
    assert complaints == []
    assert found["drawn"] == found["figures"]
    assert (found["wide"] <= found["window"], found["cut"]) == (True, 0)
    assert found["paper"] == "rgb(23, 24, 27)"
    assert found["white"] == 0
    assert found["bars"] == 0, "they would lie on what is drawn"


@pytest.mark.long
def test_on_paper_no_table_and_no_figure_is_cut(write_run, tmp_path):
    """A4 at 96 dots an inch without its margins; the style of paper is applied to the screen, which the probe sees."""
    pytest.importorskip("plotly.offline", reason="plotly is not installed")
    for number in range(10):
        settings = {"mixer_settings": {"eta": 0.01234 * number}, "costs": COSTS["excess"][0]}
        write_run("ama_s", 0, {"a": 0.02, "a task of a long name": 0.1 * number}, folder=f"runs/{number}", **settings)
    page = write_report(find(tmp_path / "runs"), tmp_path / "report.html")
    text = page.read_text().replace("</body>", ON_PAPER)
    page.write_text(text.replace("@media print {", "@media all {"))
    found, complaints = opened(page, tmp_path / "profile", 718, "--force-dark-mode")
    assert complaints == []
    assert found == {"cut": 0, "shut": [], "wide": 2, "paper": "rgb(255, 255, 255)", "drawn": True, "links": 0}


@pytest.mark.long
def test_screenshots_for_the_docs_are_made_by_a_command(write_run, tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "making"))
    screenshots = importlib.import_module("screenshots")
    write_run("ama_s", 0, {"a": 0.02, "b": 0.1})
    (tmp_path / "made").mkdir()
    screenshots.main(write_report(find(tmp_path / "runs"), tmp_path / "report.html"), tmp_path / "made")
    kept = ROOT / "docs" / "pictures"
    made, there = (
        {path.name: image.open(io.BytesIO(path.read_bytes())) for path in folder.glob("report_*.webp")}
        for folder in (tmp_path / "made", kept)
    )
    assert {name: one.size for name, one in made.items()} == {name: one.size for name, one in there.items()}
    light, dark = (made[f"report_{name}.webp"].getpixel((2, 2)) for name in ("light", "dark"))
    assert min(light) > 240
    assert max(dark) < 40
    assert all(path.stat().st_size < 80_000 for path in kept.iterdir())
