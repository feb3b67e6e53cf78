"""Configurations of the user's own: `--config-dir` and `--config-name`."""

import pytest


@pytest.fixture
def own(tmp_path):
    """A folder with a configuration, and the arguments that name it."""

    def write(text: str) -> tuple[str, ...]:
        (tmp_path / "own").mkdir()
        (tmp_path / "own" / "mine.yaml").write_text(text)
        return ("--config-dir", str(tmp_path / "own"), "--config-name", "mine")

    return write


def test_a_configuration_of_ones_own_is_used(own, in_process, tiny):
    arguments = own("defaults:\n  - train\n  - _self_\n\nmixer:\n  wrap: {warmup: 7}\nsave_every: 3\nsteps: 5\n")
    rest = [text for text in tiny("mixer=uniform") if not text.startswith("steps=")]
    code, out, err = in_process("plan", *arguments, *rest)
    assert code == 0, err
    assert "generalist: 5 steps" in out


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((), "`data` is missing."),
        (("steps=4",), "`data` is missing."),
        (("cache_dir=cache",), "`cache_dir` is no setting."),
        (("mixer=uniform",), "Could not override 'mixer'"),
    ],
)
@pytest.mark.parametrize("joined", [False, True])
def test_one_that_does_not_begin_with_the_programs_is_told_so(own, in_process, overrides, said, joined):
    *folder, flag, name = own("steps: 3\n")
    code, _, err = in_process("plan", *folder, *([f"{flag}={name}"] if joined else [flag, name]), *overrides)
    assert code == 1
    assert said in err
    assert "`--config-name=mine` must begin with the program's configuration: let its `defaults` list `train`" in err


def test_one_that_is_not_there(own, in_process):
    *folder, flag, _ = own("steps: 3\n")
    code, _, err = in_process("plan", *folder, flag, "other")
    assert code == 1
    assert "Cannot find primary config 'other'" in err
    assert "must begin with" not in err
