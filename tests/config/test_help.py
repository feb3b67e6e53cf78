"""What `--help` prints of keys, groups and sections."""

import re
from dataclasses import fields

import pytest
import yaml

from mixalign.cli import verbs
from mixalign.config.elsewhere import CONF
from mixalign.config.help import help_page
from mixalign.config.task_keys import task_keys
from mixalign.config.yaml_comments import describe
from mixalign.data.read.spec import TaskSpec
from mixalign.errors import MixalignError

WITH_KEYS = ("plan", "score", "specialists", "train")


def page(*topics, verb="train", width=80):
    return help_page(verb, verbs()[verb], topics, width)


@pytest.mark.parametrize("verb", WITH_KEYS)
@pytest.mark.parametrize("width", [60, 80, 120])
def test_an_overview_fits_its_width_and_names_every_key_of_the_top(verb, width):
    text = page(verb=verb, width=width)
    assert max(map(len, text.splitlines())) <= max(width, 80)  # usage and options are not folded
    for key in describe(CONF / "train.yaml").keys:
        if key.value and "." not in key.path:
            shown = f"{key.path}={key.value}"
            assert f"\n  {shown if len(shown) < 22 else key.path}" in text
    assert len(page(verb=verb).splitlines()) <= 66


def test_options_of_a_verb_stand_there():
    assert "--rows N  training rows to show" in page(verb="plan")


def test_defaults_and_the_place_of_own_tasks_are_on_the_first_page():
    text = page()
    assert "  steps=auto " in text
    assert "data=local data.root=FOLDER" in text


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_comment_is_read_without_the_default_before_it(file):
    for key in describe(file).keys:
        assert not re.match(r"(or|also|else)\b", key.comment), f"{key.path}: {key.comment}"


@pytest.mark.parametrize("file", sorted(CONF.glob("*/*.yaml")), ids=lambda file: f"{file.parent.name}={file.stem}")
def test_every_choice_has_a_page_with_its_keys(file):
    if file.stem.startswith("_"):
        return
    text = page(f"{file.parent.name}={file.stem}")
    for key in describe(file).keys:
        assert f"{key.path}={key.value}" in text if key.value else f"{key.path}:" in text


def test_a_choice_has_the_keys_of_the_file_that_it_begins_with():
    text = page("influence=kfac")
    assert "influence.curvature=kfac" in text
    assert "influence.damping=" in text


def test_several_choices_of_a_group():
    text = page("logger=[csv,wandb]")
    assert text == page("logger=csv", "logger=wandb")
    assert text == page("logger=csv,wandb")  # as in a sweep


def test_a_group_a_section_and_a_key():
    assert "ama_r" in page("mixer")
    assert "mixer.wrap.floor=0.0" in page("mixer")
    assert "eval.generate=0" in page("eval")
    assert page("steps").startswith("  steps=auto")
    assert page("steps=500") == page("steps")
    assert page("optimizer.lr").startswith("  optimizer.lr=auto")
    assert page("data.max_length=12").startswith("  data.max_length=")


def test_all_has_every_key_of_the_top():
    text = page("all")
    assert all(key.path in text for key in describe(CONF / "train.yaml").keys)


@pytest.mark.parametrize(
    ("topic", "says"),
    [
        ("colums", "`--help all` everything"),
        ("mixer=amas", "There is no `mixer=amas`. Did you mean `ama_s`?"),
        ("stepz", "Did you mean `steps`?"),
    ],
)
def test_what_there_is_not_is_refused(topic, says):
    with pytest.raises(MixalignError, match="There is no") as error:
        page(topic)
    assert says in str(error.value)


def test_the_keys_of_a_task_have_a_page_with_their_comments():
    """Those of the class that checks them, with its defaults."""
    keys = {key.path: key for key in task_keys()}
    assert [*keys] == [entry.name for entry in fields(TaskSpec)]
    spec = TaskSpec.from_mapping("a", {name: yaml.safe_load(key.value) for name, key in keys.items()})
    assert spec == TaskSpec()
    text = " ".join(page("data.tasks").split())
    for name, key in keys.items():
        assert key.comment, f"`{name}` has no comment"
        assert " ".join(key.comment.split()) in text
        assert f" {name}={key.value}" in text
    assert page("data.tasks") == page("tasks") == page("data.tasks.math") == page("data.tasks.math={path: a.jsonl}")
    assert "train_on=" not in page("columns")
    columns = " ".join(page("columns").split())
    assert "columns={} our column name to theirs, {prompt: question}" in columns
    assert page("columns") == page("data.tasks.columns") == page("data.tasks.math.columns")
    with pytest.raises(MixalignError, match=r"no help on `data\.tasks\.math\.colums`\. Did you mean `columns`"):
        page("data.tasks.math.colums")
    assert page("objective").startswith("objective=...")  # a group, and a key of a task
