"""Keys and comments of the files of conf/."""

import pytest
import yaml

from mixalign.config.elsewhere import CONF
from mixalign.config.yaml_comments import Key, describe

FILES = [CONF / "train.yaml", *sorted(CONF.glob("*/*.yaml"))]


def _paths(node, above=""):
    for name, value in node.items():
        path = f"{above}{name}"
        yield path
        if isinstance(value, dict):
            yield from _paths(value, f"{path}.")


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_key_that_yaml_finds_is_found(file):
    """Mappings on one line, and lists, are values; what begins with `_target_`, `defaults` and `hydra` is Hydra's."""
    found = {key.path for key in describe(file).keys}
    hidden = ("_target_", "defaults", "hydra")
    wanted = {path for path in _paths(yaml.safe_load(file.read_text()) or {}) if not {*hidden} & {*path.split(".")}}
    assert found <= wanted
    inline = {key.path for key in describe(file).keys if key.value.startswith("{")}
    assert {path for path in wanted - found if not any(path.startswith(f"{head}.") for head in inline)} == set()


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_file_says_what_it_is(file):
    assert describe(file).about or file.stem.startswith("_")


def test_comments_headings_and_lines_that_go_on(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "# @package _global_\n# What it is,\n# and for whom.\ndefaults:\n  - other\n\n# Length\nsteps: 3 # of all\n"
        'rows: 4 # first,\n  # then more\n\nsome: # a section\n  of: "#1" # with a sign\n'
    )
    found = describe(tmp_path / "a.yaml")
    assert found.about == "What it is, and for whom."
    assert found.defaults == ["other"]
    assert found.keys == [
        Key("steps", "3", "of all", "Length"),
        Key("rows", "4", "first, then more", "Length"),
        Key("some", "", "a section"),
        Key("some.of", '"#1"', "with a sign"),
    ]
