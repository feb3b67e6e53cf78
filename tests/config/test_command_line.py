"""Configurations of the user's own, `--config-dir` and `--config-name`; and commands that do without Hydra's main."""

import hydra
import pytest
import yaml

from mixalign.config.elsewhere import CONF


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


def test_a_plan_is_the_same_without_hydras_main(in_process, tiny, tmp_path, monkeypatch):
    with_it = in_process("plan", "hydra.verbose=false", *tiny("mixer=uniform"))
    assert with_it[0] == 0
    monkeypatch.setattr(hydra, "main", None)
    assert in_process("plan", *tiny("mixer=uniform")) == with_it


@pytest.mark.parametrize("further", ["--cfg=job", "hydra.job.num=1", "cache_dir=${hydra:runtime.cwd}/cache"])
def test_what_is_hydras_is_left_to_it(in_process, tiny, monkeypatch, further):
    called = []
    monkeypatch.setattr(hydra, "main", lambda **_: lambda job: lambda: called.append(job))
    in_process("plan", *tiny("mixer=uniform"), further)
    assert len(called) == 1


def test_only_the_main_file_sets_what_hydras_main_heeds():
    """Others name folders of a sweep, and what is swept over: a plan of one run needs neither."""
    files = [file for file in CONF.rglob("*.yaml") if file.stem != "train" and file.parent.name != "hydra"]
    found = {file.stem: {*(yaml.safe_load(file.read_text()) or {}).get("hydra", ())} for file in files}
    assert set().union(*found.values()) <= {"sweep", "sweeper"}, found
