"""The site of docs/: what is made for it is whole, and it builds without a warning where its tools are installed."""

import html
import importlib
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml

from mixalign.config.yaml_comments import describe
from mixalign.data.read.spec import TaskSpec

ROOT = Path(__file__).resolve().parents[1]
MAKING, PICTURES = ROOT / "docs" / "making", ROOT / "docs" / "pictures"
NEEDED = ("mkdocs", "material", "mkdocstrings", "latex2mathml")


@pytest.fixture
def making(monkeypatch):
    monkeypatch.syspath_prepend(str(MAKING))
    return importlib.import_module


def test_every_key_of_the_configuration_is_on_its_page(making):
    page = making("configuration").configuration_page()
    for key in describe(ROOT / "conf" / "train.yaml").keys:
        if key.value:
            assert f"| `{key.path}` |" in page, key.path
    for entry in fields(TaskSpec):
        assert f"| `data.tasks.<name>.{entry.name}` |" in page
    for path in sorted((ROOT / "conf").glob("*/[!_]*.yaml")):
        if path.parent.name != "hydra":
            assert f"### `{path.parent.name}={path.stem}`" in page


def test_pictures_show_what_the_rules_do_today(making, tmp_path):
    image = pytest.importorskip("PIL.Image")
    making("pictures").main(tmp_path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["ama.png", "ideal.png"]
    for made in tmp_path.iterdir():
        now, then = (
            json.loads(image.open(io.BytesIO(path.read_bytes())).text["Description"])
            for path in (made, PICTURES / made.name)
        )
        again = f"docs/pictures/{made.name} is out of date: python docs/making/pictures.py"
        assert len(now) == len(then), again
        for axes, before in zip(now, then, strict=True):
            assert axes["words"] == before["words"], again
            for kind in ("lines", "bars"):
                assert np.array(axes[kind]) == pytest.approx(np.array(before[kind]), abs=1e-2, rel=1e-3), again


def test_what_a_key_touches_is_what_the_settings_say(making):
    page = making("configuration").configuration_page()
    touches = {"steps": "weights", "run_dir": "place", "trainer.devices": "speed", "data.workers": "speed"}
    for key, kind in touches.items():
        lines = [line for line in page.splitlines() if line.startswith(f"| `{key}` |")]
        assert lines
        assert all(line.endswith(f"| {kind} |") for line in lines)
    untold = [line for line in page.splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert not untold, f"config/settings.py does not say what these touch: {untold}"


@pytest.mark.long
def test_pictures_of_the_terminal_are_made_of_its_display(making, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("mixalign.bars.REFRESH", 0.0)
    run = tiny("progress=true", "steps=8", f"cache_dir={tmp_path / 'none'}")
    making("terminal").draw(tmp_path, [text for text in run if not text.startswith("cache_dir")])
    for kind, says in {
        "training": ["[6/7] generalist", "step 5/8", "left", "[5/7] specialist compare: 3 steps, last batch's loss "],
        "result": ["start->end", "run folder: runs/first"],
        "plan": ["trainings: 5", "memory: at most about", "time: about "],
    }.items():
        shown = _text_of(tmp_path / f"terminal_{kind}.svg")
        for text in says:
            assert text in shown, (kind, shown)


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "pictures").glob("*.svg")), ids=lambda path: path.stem)
def test_pictures_load_nothing_and_are_small(path):
    text = path.read_text("utf-8")
    assert len(text) < 30_000
    assert "@font-face" not in text
    assert not re.search(r"(?:href|src|url)[=(]\W*https?:", text)
    assert re.search(r"\[\d/\d\]|start->end|trainings:", _text_of(path))


def _text_of(path: Path) -> str:
    """What one reads on a picture, without blanks that are wider."""
    lines = re.findall(r"<text [^>]*>([^<]*)</text>", path.read_text("utf-8"))
    return " ".join(html.unescape(line).replace("\u00a0", " ") for line in lines)


def test_every_mixer_has_a_page_that_says_what_it_does(making):
    methods = making("methods")
    pages = methods.method_pages()
    by_hand = {f"methods/{name}.md" for name in methods.BY_HAND.values()}
    assert all((ROOT / "docs" / page).is_file() for page in by_hand)
    assert {Path(page).stem for page in pages} | {*methods.BY_HAND} == methods.names()
    for page, text in pages.items():
        above, _, settings = text.partition("## Settings")
        assert len(above.split()) > 30, f"{page} hardly says anything"
        assert settings
        assert above.count("$$") >= 2, f"{page} has no equation"
    assert {*yaml.safe_load(methods.EQUATIONS.read_text())} == {Path(page).stem for page in pages}
    assert "`alpha_j <- alpha_j exp(eta W_j)`" in pages["methods/doge.md"]


def test_every_public_name_is_on_the_page_for_python(making):
    api = making("api")
    page = api.api_pages()["python.md"]
    public = importlib.import_module("mixalign")
    assert {*api.public_names()} | {"train"} == {*public.__all__}
    for name in public.__all__:
        assert re.search(rf"^::: mixalign\.([\w.]+\.)?{name}$", page, re.MULTILINE)


def test_every_equation_of_a_mixer_can_be_drawn(making):
    latex2mathml = pytest.importorskip("latex2mathml.converter")
    for name in making("methods").method_pages():
        for one in re.findall(r"\$\$?([^$]+)\$", making("methods").equations_of(Path(name).stem)):
            drawn = re.sub(r"<[^>]*>", "", latex2mathml.convert(one))
            assert "\\" not in drawn, f"{name}: a command of {one} is not known"


@pytest.mark.long
def test_the_site_builds_without_a_warning(tmp_path):
    missing = [name for name in NEEDED if not find_spec(name)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install 'mixalign[docs]'")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        capture_output=True, text=True, timeout=280, cwd=ROOT, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for page in ("index.html", "configuration.html", "python.html", "methods/ideal.html", "methods/doge.html"):
        assert (tmp_path / page).is_file()
    texts = {page: page.read_text() for page in tmp_path.rglob("*.html")}
    assert "<math" in texts[tmp_path / "methods" / "ama.html"]
    for page, text in texts.items():
        assert "arithmatex" not in text, f"{page} has an equation that is not drawn"
        assert not re.search(r'(?:src|href)="https?://[^"]+\.(?:js|css)', text), f"{page} asks the network for a script"
