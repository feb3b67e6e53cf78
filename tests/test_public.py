"""The names that `import mixalign` offers, and that they cost nothing until they are used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mixalign

SOURCE = Path(mixalign.__file__)


@pytest.mark.parametrize("name", mixalign.__all__)
def test_every_public_name_is_there_and_is_listed(name):
    assert getattr(mixalign, name).__name__ == name
    assert name in dir(mixalign)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(SOURCE.read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in guarded.body for alias in node.names}
    assert seen == {name: f"mixalign.{place}" for name, place in mixalign.PLACES.items()}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="AMAX"):
        _ = mixalign.AMAX


def test_a_light_name_does_not_bring_torch():
    code = "import sys, mixalign; mixalign.MixalignError; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)
