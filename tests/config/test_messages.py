"""What a user is told of an error that no code of ours raised."""

import errno

import pytest

from mixalign.config.compose import compose_settings
from mixalign.config.messages import user_message
from mixalign.errors import MixalignError


@pytest.mark.parametrize("number", ["EACCES", "EROFS", "ENAMETOOLONG", "ELOOP", "EIO", "ESTALE"])
def test_a_place_that_the_system_refuses_is_named(number):
    error = OSError(getattr(errno, number), "refused", "/a/b")
    assert user_message(error) == "/a/b cannot be used (refused). Choose another place, or change what is there."


def test_a_file_that_is_not_there_may_be_a_defect_of_ours():
    assert user_message(FileNotFoundError(errno.ENOENT, "No such file", "/a/b")) is None


def test_values_for_a_sweep_without_its_option_are_told_so():
    with pytest.raises(MixalignError) as caught:
        compose_settings(["seed=0,1"])
    wanted = "`seed=0,1`: add -m for a run with each of these; a list is written `seed=[0,1]`, in quotes."
    assert str(caught.value) == wanted


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("data.on_overlap=drop", "data.tasks.<name>.on_overlap"),
        ("+data.on_overlap=drop", "data.tasks.<name>.on_overlap"),
        ("data.on_overlp=drop", "data.tasks.<name>.on_overlap"),
        ("data.columns.prompt=question", "data.tasks.<name>.columns"),
        ("apply_chat_template=true", "data.tasks.<name>.apply_chat_template"),
        ("mixer.floor=0.1", "mixer.wrap.floor"),
        ("floor=0.1", "mixer.wrap.floor"),
    ],
)
def test_a_key_that_stands_too_high_is_named_where_it_belongs(override, place):
    with pytest.raises(MixalignError) as caught:
        compose_settings([override])
    assert str(caught.value).endswith(f"Did you mean `{place}`?")


def test_a_setting_of_each_task_in_the_place_of_a_name_is_told(tmp_path):
    with pytest.raises(MixalignError, match=r"names no task: .* Set `data\.tasks\.<name>\.on_overlap`"):
        compose_settings(["data=local", f"data.root={tmp_path}", "++data.tasks.on_overlap=drop"])
