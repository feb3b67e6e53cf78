"""Runs made in rounds: losses, volumes and benefits of made-up runs, in tables, a figure and a section of the page."""

import pytest

from mixalign.reporting.judge.rounds import histories
from mixalign.reporting.show.figures.rounds import change_figure, loss_figure, volume_figure
from mixalign.reporting.show.page import write_report
from mixalign.reporting.show.rounds import sentences, settings_table, tasks_table
from tests.reporting.made_up import find

TASKS = ("a", "b")


def _round(number, loss, volumes, benefit=None, confidence=(1.0, 0.9), identity=None, **more):
    """An entry of `eval.json`; numbers by task are given in the order of TASKS."""
    entry = {"round": number, "mean_target_loss": loss, "volumes": dict(zip(TASKS, volumes, strict=True)), **more}
    if benefit is not None:
        by_task = {"benefit": benefit, "confidence": confidence, "identity": identity or benefit}
        entry |= {key: dict(zip(TASKS, value, strict=True)) for key, value in by_task.items()}
        entry["curvature"] = more.get("curvature", "ekfac")
    return entry


def _sweep(write_run):
    """m=0.1, two seeds: 1.0 -> 0.8 and 1.2 -> 0.9 -> 0.8; m=0.5, one seed: 1.0 -> 1.5, ended early."""
    seed_0 = [
        _round(0, 1.0, (100, 50), (2.0, -1.0), confidence=(1.0, 0.9)),
        _round(1, 0.8, (110, 48), (1.0, 0.5), confidence=(0.8, 0.5), stopped="the benefits point the other way"),
    ]
    seed_1 = [
        _round(0, 1.2, (100, 50), (4.0, -2.0), confidence=(1.0, 0.7), identity=(0.1, 0.1)),
        _round(1, 0.9, (112, 46), (3.0, -1.5), confidence=(0.8, 0.5)),
        _round(2, 0.8, (120, 40)),
    ]
    ended = [_round(0, 1.0, (100, 50), (2.0, -1.0)), _round(1, 1.5, (150, 25), stopped="it has not fallen")]
    for m, seed, rounds, best in ((0.1, 0, seed_0, 1), (0.1, 1, seed_1, 2), (0.5, 0, ended, 0)):
        excess = {"a": 0.1, "b": 0.2}
        folder = f"runs/m{m}_{seed}"
        write_run("ideal", seed, excess, folder=folder, mixer_settings={"m": m}, rounds=rounds, best_round=best)


@pytest.fixture
def groups(write_run, tmp_path):
    _sweep(write_run)
    return histories(find(tmp_path))


def _page(tmp_path):
    return write_report(find(tmp_path / "runs"), tmp_path / "report.html").read_text(encoding="utf-8")


def test_settings_are_compared_within_seeds(groups):
    """Differences of m=0.1: -0.2 and -0.4, mean -0.3, standard error 0.1."""
    assert settings_table(groups).rows == [
        ["ideal m=0.1", "2", "1.100+-0.100", "0.800+-0.000", "-0.300+-0.100", "2.5", "1/2"],
        ["ideal m=0.5", "1", "1.000 (-)", "1.000 (-)", "+0.000 (-)", "2", "1/1"],
    ]


def test_tasks_of_the_best_setting(groups):
    """Volumes and benefits are means over the seeds that trained the round; `identity` differs once, for b."""
    table = tasks_table(groups)
    volumes = [f"volume, round {d}" for d in (0, 1, 2)]
    assert table.titles == ["task", *volumes, "benefit, round 0", "benefit, round 1", "confidence", "identity agrees"]
    assert table.rows == [
        ["a", "100", "111", "120", "+3", "+2", "0.900", "4/4"],
        ["b", "50", "47", "40", "-1.5", "-0.5", "0.650", "3/4"],
    ]
    assert table.caption.startswith("ideal m=0.1, 2 seeds")


def test_sentences_say_which_is_best_and_where_nothing_helped(groups):
    best, unmoved, definition = sentences(groups)
    assert best == "Lowest target loss after the kept round: ideal m=0.1, 0.800 nats."
    assert unmoved == "Round 0, with all volumes unchanged, was the best under ideal m=0.5 (1 of 1 seed)."
    assert definition.startswith("Benefit is")
    assert len(sentences({"ideal m=0.1": groups["ideal m=0.1"]})) == 2


def _values(figure):
    return {one["meta"]["run"] or one["meta"]["task"]: one["y"] for one in figure.traces if not one["meta"]["hidden"]}


def test_figures_show_means_and_relative_volumes(groups):
    loss = loss_figure(groups, [*groups])
    assert _values(loss) == {"ideal m=0.1": [1.1, pytest.approx(0.85), 0.8], "ideal m=0.5": [1.0, 1.5]}
    assert loss.traces[0]["marker"]["symbol"] == ["circle", "circle", "circle-open"]  # one seed ended before
    volume = volume_figure(groups, TASKS)
    assert volume.title.endswith("ideal m=0.1")
    assert _values(volume) == {"a": [1.0, 1.11, 1.2], "b": [1.0, 0.94, 0.8]}


def test_predicted_and_actual_changes_are_shown_where_both_are_known(write_run, tmp_path):
    known = {"predicted_change": {"a": -0.3, "b": 0.1}, "change": {"a": -0.1, "b": None}}
    rounds = [_round(0, 1.0, (100, 50), (2.0, -1.0)), _round(1, 0.9, (110, 48), **known)]
    path = write_run("ideal", 0, {"a": 0.1, "b": 0.2}, rounds=rounds, best_round=1)
    points, diagonal = change_figure(histories(find(path)), TASKS).traces
    assert (points["x"], points["y"], points["text"]) == ([-0.3], [-0.1], ["round 1"])
    assert diagonal["x"] == diagonal["y"] == [-0.3, 0.0]


def test_the_page_has_the_section(write_run, tmp_path):
    _sweep(write_run)
    write_run("uniform", 0, {"a": 0.1, "b": 0.2})
    text = _page(tmp_path)
    section = text.partition(">Rounds</h3>")[2].partition("<h3")[0]
    assert section.count("<figure") == 2  # no change was predicted
    assert section.count("<table") == 2
    assert "-0.300 <small>\u00b1 0.100</small>" in section
    assert "uniform" not in section


def test_unfinished_rounds_and_none_at_all_give_no_section(write_run, tmp_path):
    write_run("uniform", 0)
    write_run("ideal", 1, folder="runs/unfinished", finished=False)
    assert ">Rounds</h3>" not in _page(tmp_path)


@pytest.mark.parametrize("rounds", [[], "text", [None], [{}], [{"mean_target_loss": None}], {"round": 0}])
def test_rounds_without_a_loss_are_none(rounds, write_run, tmp_path):
    assert histories(find(write_run("ideal", 0, rounds=rounds, best_round=0))) == {}


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {},
        {"round": 1, "mean_target_loss": None, "volumes": None, "benefit": None},
        {"round": 1, "mean_target_loss": 0.9, "volumes": {"a": None, "new": 3}, "benefit": {"b": "text"}},
        {"round": 1, "mean_target_loss": 0.9, "volumes": [1, 2], "confidence": 1, "identity": {"a": 1.0}},
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_damaged_rounds_leave_the_rest(entry, place, write_run, tmp_path):
    """The sound round has loss 0.5 and is the best, whatever `best_round` says or does not say."""
    rounds = [entry]
    rounds.insert(1 - place, _round(7, 0.5, (100, 50), (2.0, None)))
    write_run("ideal", 0, {"a": 0.1, "b": 0.2}, rounds=rounds, best_round=None)
    groups = histories(find(tmp_path))
    for figure in (loss_figure(groups, [*groups]), volume_figure(groups, TASKS), change_figure(groups, TASKS)):
        assert figure is None or figure.json
    assert groups["ideal"][0].losses[1] == 0.5
    sound = dict(zip(tasks_table(groups).titles, tasks_table(groups).rows[0], strict=True))
    assert sound[f"volume, round {1 - place}"] == "100"
    assert sound[f"benefit, round {1 - place}"] == "+2"


def test_rounds_of_older_versions_are_read(write_run, tmp_path):
    """They called the target loss that of the reference."""
    old = [{"mean_reference_loss" if k == "mean_target_loss" else k: v for k, v in _round(0, 0.5, (100, 50)).items()}]
    path = write_run("ideal", 0, {"a": 0.1, "b": 0.2}, rounds=old, best_round=0)
    assert histories(find(path))["ideal"][0].losses == (0.5, 0.5)


def test_identity_is_not_compared_with_itself(write_run, tmp_path):
    rounds = [_round(0, 1.0, (100, 50), (2.0, -1.0), curvature="identity"), _round(1, 0.9, (120, 45))]
    path = write_run("ideal", 0, {"a": 0.1, "b": 0.2}, rounds=rounds, best_round=1)
    assert [row[-1] for row in tasks_table(histories(find(path))).rows] == ["-", "-"]
