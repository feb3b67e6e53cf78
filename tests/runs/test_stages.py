"""The stages that a run is told to have are those that it goes through."""

import logging
import re

import pytest

from mixalign.config.compose import compose_settings
from mixalign.course import READING
from mixalign.files import read_json
from mixalign.frozen import worse
from mixalign.jobs.job import prepare
from mixalign.runs.stages import GENERALIST, stages_of
from tests.tiny_runs import train_from_overrides

SPECIALISTS = ["specialist helpful", "specialist reverse", "specialist compare"]
BEFORE = ["reference", "losses of the reference"]
END = ["generalist", "evaluation"]
SETUPS = {
    "ama_s": (["mixer=ama_s"], [*BEFORE, *SPECIALISTS, *END]),
    "uniform": (["mixer=uniform"], [*BEFORE, *END]),
    "sft": (["mixer=ama_s", "objective=sft"], [*SPECIALISTS, "losses of the start", *END]),
    "doremi": (["mixer=doremi", "objective=sft"], ["losses of the start", "baseline", "proxy", *END]),
    "ideal": (
        ["mixer=ideal", "objective=sft", "mixer.rounds=1", "mixer.stop=false"],
        ["losses of the start", "round 0", "influence 0", "round 1"],
    ),
    "folds": (
        ["mixer=ama_s", "objective=sft", "specialists.folds=2", "eval.start=false"],
        [f"{name} {fold}/2" for name in SPECIALISTS for fold in (1, 2)] + END,
    ),
    "answers": (
        ["mixer=uniform", "eval.generate=1", "eval.max_new_tokens=2"],
        ["reference", "answers of the start", BEFORE[1], *END, "answers of the result"],
    ),
}


@pytest.fixture
def stages(tiny, tmp_path, caplog, capsys):
    """Trains, and gives the lines of the stages that were over."""

    def go(*overrides: str, run: str = "run") -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="mixalign"):
            own = ("progress=true", f"cache_dir={tmp_path / 'cache'}")
            train_from_overrides(tiny(*own, *overrides), str(tmp_path / run))
        return [text for text in caplog.messages if re.search(r"^\[\d+/\d+\] .* took \d+:\d\d$", text)]

    return go


@pytest.mark.parametrize(
    "setup", [name if name == "ama_s" else pytest.param(name, marks=pytest.mark.long) for name in SETUPS]
)
def test_a_run_goes_through_the_stages_that_it_was_told_to_have(stages, setup):
    overrides, names = SETUPS[setup]
    lines = stages(*overrides)
    assert [line.split(": ")[0] for line in lines] == [
        f"[{number}/{len(names)}] {name}" for number, name in enumerate(names, 1)
    ]
    trained = [line for line in lines if re.search(r": \d+ steps, last batch's loss \d+\.\d{3}, ", line)]
    assert len(trained) == sum(
        name.split()[0] not in ("losses", "influence", "evaluation", "answers") for name in names
    )


@pytest.mark.long
def test_what_the_cache_has_is_no_stage_of_a_run(stages, tmp_path):
    stages("mixer=ama_s")
    lines = stages("mixer=ama_r", run="second")
    assert [line.split(":")[0] for line in lines] == ["[1/2] generalist", "[2/2] evaluation"]
    kinds = {kind for path in (tmp_path / "cache" / "costs").glob("*.json") for kind in read_json(path)["work"]}
    assert kinds == {"training", "reading"}  # every record says what it was for


def test_validations_read_the_rows_that_a_training_looks_at(tiny):
    """After steps 3 and 4 two rows of each task; those of a task are of one length."""
    job = prepare(compose_settings(tiny("mixer=uniform", "val_every=3", "eval_rows=2")))
    (generalist,) = (one for one in stages_of(job, job.settings.mixer, False) if one.name == GENERALIST)
    assert generalist.work[READING] == 2 * sum(2 * float(table.length_N.mean()) for table in job.data["validation"])


@pytest.mark.long
def test_the_start_is_read_in_a_stage_of_its_own(stages, monkeypatch):
    """Also where specialists are compared with it, behind the last one's training."""
    read, seen = worse.score, []

    def score(job, *rest):
        seen.append(job.course.stages[int(job.course.title("").split("/")[0].strip("[")) - 1].name)
        return read(job, *rest)

    monkeypatch.setattr(worse, "score", score)
    stages("objective=sft", "mixer=ama_s")
    assert seen == [worse.OF_START] * 3


def test_without_bars_there_are_no_lines(stages):
    assert stages("mixer=uniform", "progress=false") == []
