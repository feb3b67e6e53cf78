"""Scorers of generated answers, and what may be one."""

import pytest

from mixalign.data.read.spec import TaskSpec
from mixalign.data.scorers import built_in, exact, same_match, score_answer
from mixalign.errors import MixalignError
from mixalign.jobs.tasks import scorer_of


def spec(**entry):
    return TaskSpec.from_mapping("t", {"path": "t.jsonl", **entry})


def longer(prompt, answer, given):
    return len(given) > len(answer)


def broken(prompt, answer, given):
    return {}["x"]


def unsure(prompt, answer, given):
    return float("nan")


def test_exact_and_regular_expressions():
    assert exact("", "a b", " a b\n") == 1
    assert exact("", "a b", "a  b") == 0
    number = same_match(r"#### (-?\d+)")
    assert number("", "so #### 12", "I say #### 3, no, #### 12") == 1
    assert number("", "so #### 12", "12") == 0
    refusal = same_match("cannot")
    assert [refusal("", "I cannot", "cannot do"), refusal("", "I cannot", "sure"), refusal("", "sure", "ok")] == [
        1,
        0,
        1,
    ]


def test_a_task_has_the_one_that_is_named_or_its_generators():
    assert built_in(spec(scorer="exact")) is exact
    assert built_in(spec(scorer={"regex": "(x)"}))("", "x", "x") == 1
    assert built_in(spec()) is None
    assert built_in(TaskSpec(generator="private")) is not None
    assert built_in(TaskSpec(generator="private", scorer="exact")) is exact
    assert built_in(TaskSpec(generator="reverse")) is None


@pytest.mark.parametrize("value", ["exactly", {"regex": "("}, {"pattern": "x"}, 3, "os.path.join()"])
def test_what_is_no_scorer_is_refused(value):
    with pytest.raises(MixalignError, match=r"data\.tasks\.t\.scorer"):
        spec(scorer=value)


def test_a_function_must_be_allowed_by_the_environment(monkeypatch, caplog):
    path = f"{__name__}.longer"
    monkeypatch.delenv("MIXALIGN_TARGETS", raising=False)
    for one in (path, "mixalign.files.write_text", "shutil.rmtree"):
        with pytest.raises(MixalignError, match="MIXALIGN_TARGETS"):
            scorer_of("t", spec(scorer=one))
    monkeypatch.setenv("MIXALIGN_TARGETS", "tests.data.*, math.pi, math.nothing")
    assert scorer_of("t", spec(scorer="tests.data.test_scorers.longer"))("", "a", "bb") is True
    with pytest.raises(MixalignError, match="is a float"):
        scorer_of("t", spec(scorer="math.pi"))
    with pytest.raises(MixalignError, match=r"cannot be imported: AttributeError.*Give its module and its name"):
        scorer_of("t", spec(scorer="math.nothing"))
    assert not caplog.records  # the message is said once


def test_a_function_that_fails_or_gives_no_number_is_named_with_its_task():
    assert score_answer("t", longer, "", "a", "bb") == 1
    with pytest.raises(MixalignError, match=r"`data\.tasks\.t\.scorer` failed on the answer 'bb'.*KeyError"):
        score_answer("t", broken, "", "a", "bb")
    with pytest.raises(MixalignError, match="must give a finite number"):
        score_answer("t", unsure, "", "a", "bb")
