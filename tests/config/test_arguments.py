"""Settings as Python objects mean what the same overrides mean."""

from pathlib import Path

import pytest

from mixalign.config.arguments import overrides_of
from mixalign.config.compose import compose_config
from mixalign.errors import MixalignError


def composed(**settings):
    return compose_config(overrides_of(settings))


def test_groups_values_and_what_lies_below():
    config = composed(mixer="ama_r", steps=500, optimizer={"lr": 1e-4, "betas": (0.9, 0.95)}, max_time=None)
    assert config.mixer.name == "ama_r"
    assert (config.steps, config.optimizer.lr, list(config.optimizer.betas)) == (500, 1e-4, [0.9, 0.95])
    assert config.max_time is None
    assert composed(progress=False).progress is False
    assert composed(mixer={"wrap": {"max_epochs": float("inf")}}).mixer.wrap.max_epochs == float("inf")


def test_a_mapping_sets_keys_of_the_entry_that_a_string_chose():
    config = compose_config(["mixer=ama_r", *overrides_of({"mixer": {"eta": 0.25}})])
    assert (config.mixer.name, config.mixer.eta) == ("ama_r", 0.25)


@pytest.mark.parametrize(
    "text", ["a b", "it's", 'say "no"', "a=b, c", "back\\slash", "end\\", "null", "7", "[x]", "{x: 1}", "", "ümlaut"]
)
def test_any_text_arrives_as_it_is(text):
    config = composed(data={"tasks": {"my-task": {"path": text, "columns": {"prompt": text, "images": None}}}})
    spec = config.data.tasks["my-task"]
    assert (spec.path, spec.columns.prompt, spec.columns.images) == (text, text, None)


def test_paths_lists_and_mappings_within_them():
    config = composed(cache_dir=Path("a b") / "c", data={"target": ["x", "y"], "tasks": {"t": {"data_files": ["1"]}}})
    assert (config.cache_dir, list(config.data.target)) == ("a b/c", ["x", "y"])
    assert list(config.data.tasks.t.data_files) == ["1"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mixer": object()}, "`mixer` is <object"),
        ({"data": {"tasks": {"a.b": {"path": "x"}}}}, r"`data.tasks` has the key 'a.b'"),
        ({"optimizer": {"lr": {1, 2}}}, r"`optimizer.lr` is \{1, 2\}, a set"),
        ({"stepz": 5}, "`stepz` is no setting"),
        ({"optimizer": {"learning_rate": 5}}, "`optimizer.learning_rate` is no setting"),
    ],
)
def test_what_cannot_be_said_names_the_argument(settings, says):
    with pytest.raises(MixalignError, match=says):
        composed(**settings)
