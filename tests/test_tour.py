"""What README, CONTRIBUTING and the pages of docs/ say of the code is what is on disk."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mixalign"
TOUR = (ROOT / "docs" / "tour.md").read_text()
PAGES = [
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
]
READING = (  # in this order; nothing essential is elsewhere
    "notebooks/01_ama_by_hand.py",
    "mixalign/mixers/base.py",
    "mixalign/mixers/ama_r.py",
    "mixalign/data/batches/sampler.py",
    "mixalign/training/module.py",
    "mixalign/training/callbacks/mixing.py",
    "mixalign/runs/train_one.py",
    "mixalign/frozen/specialists.py",
)
LONGEST_FILE, LONGEST_FUNCTION, LONGEST_READING = 300, 50, 1220
FILES = sorted(path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py"))


def line_of(folder: Path) -> str:
    """Who lives in a folder, as its `__init__.py` says in one line."""
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    assert text, f"{folder}/__init__.py does not say who lives there: give it a docstring of one line"
    assert "\n" not in text, f"{folder}/__init__.py says it in more than one line"
    return text


def tree() -> list[str]:
    """Folders of the package, those inside indented, each with its line; in the order of the alphabet."""
    folders = sorted(init.parent for init in PACKAGE.rglob("__init__.py") if init.parent != PACKAGE)
    depth = {folder: len(folder.relative_to(PACKAGE).parts) for folder in folders}
    return [f"{'  ' * depth[folder] + folder.name + '/':16}{line_of(folder)}" for folder in folders]


def test_the_tree_of_the_tour_is_the_tree_on_disk():
    wanted = "mixalign/\n" + "\n".join(tree())
    assert wanted in TOUR, f"docs/tour.md should have this tree:\n{wanted}"


def test_the_path_of_a_reader_is_short():
    for file in READING:
        assert f"`{file.removeprefix('mixalign/')}`" in TOUR or f"(../{file})" in TOUR, (
            f"docs/tour.md does not name {file}"
        )
    assert sum(len((ROOT / file).read_text().splitlines()) for file in READING) <= LONGEST_READING


@pytest.mark.parametrize("name", PAGES)
def test_paths_that_are_named_exist(name):
    text = (ROOT / name).read_text()
    links = re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text)
    for link in links:
        assert (ROOT / name).parent.joinpath(link).exists(), f"{name} links to {link}, which is not there"
    files = re.findall(r"`((?:mixalign|conf|tests|benchmarks|notebooks|docs|examples)/[\w./-]+\.\w+)`", text)
    for path in {path for path in files if "/mine." not in path}:
        assert (ROOT / path).exists(), f"{name} names {path}, which is not there"


@pytest.mark.parametrize("name", PAGES)
def test_headings_that_are_linked_to_exist(name):
    for link, heading in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", (ROOT / name).read_text()):
        there = (ROOT / name).parent.joinpath(link) if link else ROOT / name
        slugs = {
            re.sub(r"[^\w -]", "", title).lower().strip().replace(" ", "-")
            for title in re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)
        }
        assert heading in slugs, f"{name} links to #{heading} of {there.name}, which has {sorted(slugs)}"


def test_every_page_is_reached_from_the_readme():
    seen, todo = set(), ["README.md"]
    while todo:
        name = todo.pop()
        seen.add(name)
        for link in re.findall(r"\]\(([\w./-]+\.md)(?:#[\w-]+)?\)", (ROOT / name).read_text()):
            path = ((ROOT / name).parent / link).resolve().relative_to(ROOT).as_posix()
            todo += [path] if path not in seen else []
    assert {*PAGES} <= seen


@pytest.mark.parametrize("file", FILES)
def test_no_file_and_no_function_is_too_long(file):
    text = (ROOT / file).read_text()
    assert len(text.splitlines()) <= LONGEST_FILE, f"{file} is long: divide it by subject"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{file}: `{node.name}` has {lines} lines; take a part out of it"


def test_configuration_stays_above():
    """Below config/ and verbs/ there are settings; only a run's folder reads a config.yaml."""
    for file in FILES:
        if not file.startswith(("mixalign/config/", "mixalign/verbs/", "mixalign/runs/folder.py")):
            text = (ROOT / file).read_text()
            assert not re.search(r"cfg\.|DictConfig", text), f"{file} reads a composed configuration"
