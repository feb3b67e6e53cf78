"""The page in a browser without a window: figures are there, what one clicks hides and shows, nothing complains."""

import html
import json
import re
import shutil
import subprocess

import pytest

from mixalign.reporting.show.page import write_report
from tests.reporting.made_up import COSTS, find

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
    before: shown("uniform"), labels: all("select option").map((one) => one.value),
  };
  button("uniform").click();
  out.hidden = shown("uniform"); out.pressed = button("uniform").getAttribute("aria-pressed");
  button("uniform").click(); out.again = shown("uniform");
  const select = document.querySelector("select");
  select.value = "uniform"; select.dispatchEvent(new Event("change")); out.chosen = shown("uniform");
  button("b").dispatchEvent(new MouseEvent("click", { shiftKey: true }));
  out.tasks = all(".legend button").filter((one) => ["a", "b"].includes(one.dataset.name))
    .map((one) => one.dataset.name + one.getAttribute("aria-pressed"));
  document.body.innerHTML = "<pre id=probe></pre>"; document.getElementById("probe").textContent = JSON.stringify(out);
}, 1500));</script></body>"""


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
        command = [BROWSER, *FLAGS, *flags, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},9000"]
        done = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
        found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
        assert found, done.stderr
        complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return json.loads(html.unescape(found[1])), complaints

    return open_it


def test_figures_are_there_and_a_legend_hides_a_run_in_all_of_them(look):
    found, complaints = look(1200)
    assert complaints == []
    assert found["drawn"] == found["figures"] == 9
    assert sum(count > 0 for count in found["before"]) == 3  # the curves, the costs and the front
    assert found["labels"] == ["ama_s", "uniform"]
    assert (sum(found["hidden"]), found["pressed"]) == (0, "false")
    assert found["again"] == found["before"]
    assert sum(found["chosen"]) > sum(found["before"])  # figures of one run show it now
    assert set(found["tasks"]) == {"afalse", "btrue"}


def test_on_a_phone_in_the_dark_nothing_is_pushed_aside_and_nothing_is_white(look):
    found, complaints = look(420, "--force-dark-mode", "--blink-settings=preferredColorScheme=0")
    assert complaints == []
    assert found["drawn"] == found["figures"]
    assert (found["wide"] <= found["window"], found["cut"]) == (True, 0)
    assert found["paper"] == "rgb(23, 24, 27)"
    assert found["white"] == 0
