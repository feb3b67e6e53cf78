"""Which tasks a configuration means."""

import pytest

from mixalign.config.settings import DataSettings
from mixalign.data.read.sources import TaskSpec
from mixalign.errors import MixalignError
from mixalign.jobs.tasks import task_specs


@pytest.fixture
def root(tmp_path):
    for task in ("units", "polite"):
        (tmp_path / f"{task}.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    return tmp_path


def specs(root, **tasks):
    return task_specs(DataSettings(root=str(root), tasks=tasks, max_length=64, validation_fraction=0.1, seed=0))


def test_an_entry_refines_the_task_of_its_name(root):
    found = specs(root, units=TaskSpec(apply_chat_template=True), polite=None)
    assert found == {"units": TaskSpec(path=str(root / "units.jsonl"), apply_chat_template=True)}


@pytest.mark.parametrize("name", ["unit", "untis"])
def test_a_misspelt_name_is_answered_with_the_task_that_is_near(root, name):
    with pytest.raises(MixalignError) as caught:
        specs(root, **{name: TaskSpec(apply_chat_template=True)})
    assert str(caught.value) == (
        f"task `{name}` has neither a path nor a generator, so no rows can be read. Did you mean `units`? Correct its "
        f"name, or set `data.tasks.{name}.path`."
    )
