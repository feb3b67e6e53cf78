"""Means, standard errors, paired differences and verdicts, checked by hand.

A run's worst excess is its largest number; losses are excess + 0.3, so a task pair (0.1, w) has mean loss
0.35 + w / 2.
"""

import math

import pytest

from mixalign.errors import MixalignError
from mixalign.reporting.judge.comparison import compare
from mixalign.reporting.show.text import comparison_text
from tests.reporting.made_up import find


def _row(comparison, label):
    return next(row for row in comparison.rows if row.label == label)


def test_means_and_standard_errors(write_scores):
    runs = write_scores(proportional=(0.2, 0.3, 0.4), ama_s=(0.1, 0.1, 0.4))
    comparison = compare(runs)
    assert [row.label for row in comparison.rows] == ["ama_s", "proportional"]
    score = _row(comparison, "proportional").scores["worst_excess"]
    # deviations -.1, 0, .1: sd = sqrt(.02 / 2) = .1; standard error .1 / sqrt(3)
    assert (score.mean, score.error, score.n) == (pytest.approx(0.3), pytest.approx(0.1 / math.sqrt(3)), 3)
    assert _row(comparison, "proportional").scores["worst_gap"].mean == pytest.approx(0.25)
    assert _row(comparison, "proportional").scores["worst_accuracy"].mean == pytest.approx(0.6)
    assert _row(comparison, "proportional").scores["mean_loss"].mean == pytest.approx(0.3 + 0.155)
    assert "0.300+-0.058" in comparison_text(comparison, 100)


def test_paired_differences(write_scores):
    comparison = compare(write_scores(proportional=(0.2, 0.3, 0.4, 0.9), ama_s=(0.1, 0.1, 0.5)))
    differences = _row(comparison, "ama_s").differences["proportional"]
    pair = differences["worst_excess"]
    # -.1, -.2, +.1 over the three shared seeds: mean -.2/3, deviations (-.1, -.4, .5)/3, squares sum to .42/9
    assert pair.mean == pytest.approx(-0.2 / 3)
    assert pair.error == pytest.approx(math.sqrt(0.42 / 9 / 2 / 3))
    assert (pair.wins, pair.n) == (2, 3)
    accuracy = differences["worst_accuracy"]
    assert (accuracy.mean, accuracy.wins) == (pytest.approx(0.2 / 3), 2)
    assert _row(comparison, "proportional").differences == {}


@pytest.mark.parametrize(
    ("adaptive", "kind", "said", "line"),
    [
        # differences -.1, -.1, -.09: mean -.0967, sd .00577, standard error .0033, times 4.303: .0143
        ((0.1, 0.2, 0.31), "better", "Better than uniform on", ["ama_s", "-0.097", "[-0.111,", "-0.082]", "3/3"]),
        (
            (0.1, 0.1, 0.5),
            "no better",
            "Not to be told from uniform on",
            ["ama_s", "-0.067", "[-0.446,", "+0.313]", "2/3"],
        ),
        ((0.3, 0.4, 0.51), "worse", "Worse than uniform on", ["ama_s", "+0.103", "[+0.089,", "+0.118]", "0/3"]),
        ((0.1, 0.2), "too few", "ama_s (2 shared) against uniform", ["ama_s", "-0.100", "[-0.100,", "-0.100]", "2/2"]),
    ],
)
def test_verdicts(adaptive, kind, said, line, write_scores):
    comparison = compare(write_scores(uniform=(0.2, 0.3, 0.4), ama_s=adaptive))
    assert {verdict.metric: verdict.kind for verdict in comparison.verdicts} == {
        "worst_excess": kind,
        "mean_loss": kind,
    }
    assert next(text for text in comparison.sentences() if said in text).endswith(("ama_s.", "uniform."))
    assert line in [text.split() for text in comparison_text(comparison, 100).splitlines()]


def test_equal_numbers_do_not_beat(write_scores):
    comparison = compare(write_scores(temperature=(0.2, 0.3, 0.4), ama_r=(0.2, 0.3, 0.4)))
    assert {verdict.kind for verdict in comparison.verdicts} == {"no better"}
    assert "Of 1 adaptive method none beats it, 1 cannot be told from it." in comparison.sentences()[0]


def test_both_usual_baselines_are_compared_with(write_scores):
    runs = write_scores(proportional=(0.2, 0.3), uniform=(0.1, 0.2), ama_s=(0.1, 0.1), merge_ties=(0.9, 0.8))
    comparison = compare(runs)
    assert (comparison.baselines, comparison.plain) == (("proportional", "uniform"), "uniform")
    assert {row.label: row.method for row in comparison.rows} == {
        "ama_s": "adaptive",
        "uniform": "static",
        "proportional": "static",
        "merge_ties": "merge",
    }
    differences = _row(comparison, "merge_ties").differences
    assert differences["uniform"]["worst_excess"].mean == pytest.approx(0.7)
    assert differences["proportional"]["worst_excess"].mean == pytest.approx(0.6)
    assert compare(runs, "ama_s").baselines == ("ama_s", "proportional", "uniform")


def test_the_best_static_mixture_may_differ_by_score(write_run, tmp_path):
    for seed in range(3):
        write_run("uniform", seed, {"a": 0.2, "b": 0.2 + 0.01 * seed})
        write_run("proportional", seed, {"a": 0.0, "b": 0.3 + 0.01 * seed})
        write_run("ama_s", seed, {"a": 0.1, "b": 0.1 + 0.02 * seed})
    best = [text.split(", ")[0] for text in compare(find(tmp_path)).sentences() if text.startswith("The best")]
    assert best == [
        "The best static mixture on worst excess is uniform",
        "The best static mixture on mean loss is proportional",
    ]


@pytest.mark.parametrize(
    ("mixers", "wanted", "baseline", "note"),
    [
        (("ama_s", "proportional"), None, "proportional", ""),
        (("ama_s", "uniform"), None, "uniform", ""),
        (("ama_r", "ama_s"), None, "ama_r", "no proportional or uniform run"),
        (("ama_s", "uniform"), "proportional", "uniform", "No run has the baseline `proportional`"),
        (("ama_s", "uniform"), "ama_z", "uniform", "Did you mean `ama_s`"),
        (("ama_s", "uniform"), "ama_s", "ama_s", ""),
    ],
)
def test_baseline(mixers, wanted, baseline, note, write_scores):
    comparison = compare(write_scores(**{mixer: (0.1, 0.2) for mixer in mixers}), baseline=wanted)
    assert comparison.baseline == baseline
    assert note in " ".join(comparison.notes)
    assert bool(note) == bool(comparison.notes)


def test_one_seed_has_no_standard_error(write_scores):
    comparison = compare(write_scores(proportional=(0.2,), ama_s=(0.1,)))
    text = comparison_text(comparison, 100)
    assert "0.100" in text
    assert "-0.100" in text
    assert "one seed, so without standard errors" in text
    assert "(-)" not in text  # in each cell it would say nothing
    assert "95 % t interval" not in text
    assert comparison.to_json()["rows"][0]["scores"]["worst_excess"] == {"mean": 0.1, "error": None, "n": 1}


def test_without_specialists_the_worst_loss_counts(write_run, tmp_path):
    write_run("ama_s", 0, {"a": None, "b": None})
    write_run("uniform", 0, {"a": None, "b": None})
    comparison = compare(find(tmp_path))
    assert comparison.metric == "worst_loss"
    assert comparison.columns == ("worst_loss", "worst_accuracy", "mean_loss", "mean_accuracy")
    assert "the worst loss is used" in comparison.notes[0]


def test_a_seed_without_excess_is_left_out_aloud(write_scores, write_run, tmp_path):
    write_scores(uniform=(0.2, 0.4))
    write_run("uniform", 2, {"a": None, "b": None})
    comparison = compare(find(tmp_path))
    assert comparison.rows[0].scores["worst_excess"].n == 2
    assert comparison.rows[0].scores["worst_excess"].mean == pytest.approx(0.3)
    assert comparison.rows[0].scores["mean_loss"].n == 3
    assert "uniform seed 2 has no worst excess, worst gap; it is left out there." in comparison.notes


def test_unlike_runs_are_noted(write_run, tmp_path):
    write_run("uniform", 0, settings={"steps": 100})
    write_run("ama_s", 0, {"other": 0.2}, settings={"steps": 300, "objective": {"name": "sft"}}, objective="sft")
    notes = " ".join(compare(find(tmp_path)).notes)
    assert "different objectives (dpo, sft)" in notes
    assert "not evaluated on the same tasks" in notes
    assert "more than the mixer: steps (100, 300)" in notes


def test_nothing_finished_is_an_error_with_reasons(write_run, tmp_path):
    write_run("ama_s", 0, finished=False)
    with pytest.raises(MixalignError, match=r"nothing to compare .*no eval\.json"):
        compare(find(tmp_path))
