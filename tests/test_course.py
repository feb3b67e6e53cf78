"""The course of a run, by arithmetic on a clock that is set by hand."""

import logging

import pytest

from mixalign.course import READING, TRAINING, Course, Stage, clock, span

STAGES = [
    Stage("reference", {TRAINING: 30.0}, trainings=1),
    Stage("specialist json", {TRAINING: 60.0, READING: 10.0}, trainings=1),
    Stage("generalist", {TRAINING: 100.0, READING: 5.0}, trainings=1),
]


class Clock:
    """Seconds that pass when somebody says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def time():
    return Clock()


@pytest.fixture
def course(time):
    made = Course(now=time)
    made.begin(STAGES, {})
    return made


def test_without_stages_it_says_nothing(caplog):
    course = Course()
    with caplog.at_level(logging.INFO, logger="mixalign"):
        course.enter("reference")
        course.worked(TRAINING, 1.0, 10.0)
        course.finish()
    assert course.title("reference") == "reference"
    assert (course.total(), caplog.messages) == ("", [])


def test_a_total_comes_from_the_speed_of_what_was_measured(course, time):
    """10 of 30 units took 40 s: 20 + 60 + 10 + 100 + 5 = 195 are left, 4 s each, beside the 40 s that are over."""
    course.enter("reference")
    assert course.title("reference") == "[1/3] reference"
    assert course.total() == ""  # nothing is known yet
    course.worked(TRAINING, 0.5, 2.0)
    assert course.total() == ""  # two seconds tell nothing
    course.worked(TRAINING, 9.5, 38.0)
    time.seconds = 40.0
    assert course.total() == f"total about {span(40 + 4 * 195)}" == "total about 14 min"


def test_work_that_a_stage_was_not_to_have_does_not_slow_the_others(course):
    """As of a specialist that is lacking when a run goes on."""
    course.enter("reference")
    course.worked(TRAINING, 0.0, 100.0)
    course.worked(TRAINING, 10.0, 40.0)
    assert course.measured(TRAINING) == 4.0


def test_speeds_of_earlier_runs_hold_until_this_one_has_its_own(time):
    course = Course(now=time)
    course.begin(STAGES, {TRAINING: 2.0, READING: 1.0})
    course.enter("reference")
    assert course.total() == f"total about {span(2 * 190 + 15)}"
    course.worked(TRAINING, 10.0, 40.0)
    assert course.total() == f"total about {span(4 * 180 + 15)}"


def test_what_is_around_the_work_of_a_stage_is_expected_of_the_others(course, time, caplog):
    """A stage of 20 s had 15 s of work; the two that follow are taken to have 5 s more, too."""
    with caplog.at_level(logging.INFO, logger="mixalign"):
        course.enter("reference")
        course.worked(TRAINING, 30.0, 15.0)
        course.outcome("30 steps, loss 0.610")
        time.seconds = 20.0
        course.enter("specialist json")
    assert caplog.messages == ["[1/3] reference: 30 steps, loss 0.610, took 0:20"]
    assert course.total() == f"total about {span(20 + 0.5 * 175 + 5.0)}"


def test_a_stage_that_another_run_has_made_is_passed_over(course, caplog):
    course.enter("specialist json")
    assert course.title("specialist json") == "[1/2] specialist json"
    course.enter("reference")  # it is not to come
    assert course.title("x") == "[1/2] x"
    course.enter("generalist")
    assert course.title("x") == "[2/2] x"


def test_what_comes_after_the_last_stage_has_no_number(course, caplog):
    course.enter("reference")
    with caplog.at_level(logging.INFO, logger="mixalign"):
        course.finish()
    assert caplog.messages == ["[1/1] reference: took 0:00"]
    course.enter("reference")  # as when merges are judged
    assert course.title("merge ties") == "merge ties"


def test_work_whose_speed_nobody_knows_is_named(time):
    rounds = [Stage("round 0", {TRAINING: 10.0}), Stage("influence 0", {"influence": 1.0}), Stage("round 1")]
    course = Course(now=time)
    course.begin([*rounds, Stage("influence 1", {"influence": 1.0})], {TRAINING: 1.0})
    course.enter("round 0")
    assert course.total() == "total about 10 s + influence"
    course.enter("influence 0")
    course.worked("influence", 1.0, 50.0)
    time.seconds = 60.0
    course.enter("round 1")
    assert course.total() == f"total about {span(60 + 50 + 5)}"  # the other one, and what was beside the work


def test_a_training_whose_speed_nobody_knows_gives_no_total(time):
    course = Course(now=time)
    course.begin([Stage("specialist", {TRAINING: 1.0}), Stage("generalist", {"training with probes": 1.0})], {})
    course.enter("specialist")
    course.worked(TRAINING, 1.0, 5.0)
    assert course.total() == ""


@pytest.mark.parametrize(
    ("seconds", "as_clock", "as_span"),
    [
        (0.4, "0:00", "0 s"),
        (40, "0:40", "40 s"),
        (539.7, "9:00", "9 min"),
        (3725, "1:02:05", "62 min"),
        (7800, "2:10:00", "2 h 10 min"),
        (250_000, "69:26:40", "3 days"),
    ],
)
def test_times_are_written_as_people_read_them(seconds, as_clock, as_span):
    assert (clock(seconds), span(seconds)) == (as_clock, as_span)
