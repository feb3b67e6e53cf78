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
