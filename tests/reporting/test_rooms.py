"""Within reporting, imports point from `show` to `judge` to `read`; only `show` knows how things look."""

import ast
from pathlib import Path

import pytest

REPORTING = Path(__file__).resolve().parents[2] / "mixalign" / "reporting"
ROOMS = ("read", "judge", "show")


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_downwards(room):
    for file in (REPORTING / room).rglob("*.py"):
        modules = {node.module for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)}
        rooms = {module.split(".")[2] for module in modules if (module or "").startswith("mixalign.reporting.")}
        assert rooms <= set(ROOMS[: ROOMS.index(room) + 1]), f"{file} imports {rooms}"
        assert room == "show" or not modules & {"jinja2", "rich", "matplotlib"}, f"{file} shows something"
