"""What is said of methods that are better, worse, or not to be told from a static mixture."""

import pytest

from mixalign.reporting.judge.statistics import Paired
from mixalign.reporting.judge.verdicts import judge, statements

SEEDS = (0.20, 0.30, 0.40, 0.30, 0.25)  # of the static mixture
NOISE = (0.01, -0.01, 0.0, 0.01, -0.01)
METHODS = {"better": -0.1, "equal": 0.0, "worse": 0.1}


def _pair(shift, seeds=5):
    return Paired.between([value + shift + e for value, e in zip(SEEDS, NOISE, strict=True)][:seeds], SEEDS[:seeds])


def _verdicts(shifts, other="uniform", seeds=5, merges=()):
    methods = {label: "merge" if label in merges else "adaptive" for label in shifts}
    return judge({label: _pair(shift, seeds) for label, shift in shifts.items()}, other, "worst_excess", methods)


def _said(verdicts, best="uniform", shown=("uniform",)):
    return statements(verdicts, best, "0.290", "worst excess", shown)


def test_a_method_is_better_level_or_worse():
    found = {v.label: v.kind for v in _verdicts(METHODS)}
    assert found == {"better": "better", "equal": "no better", "worse": "worse"}


def test_identical_values_are_no_better():
    same = Paired.between(SEEDS, SEEDS)
    assert [v.kind for v in judge({"twin": same}, "uniform", "worst_excess", {"twin": "adaptive"})] == ["no better"]


def test_the_interval_decides_and_not_two_standard_errors():
    # differences -1, -1, -4 with mean -2 and standard error 1: two of them reach zero only just, the interval by far
    pair = Paired.between([-1.0, -1.0, -4.0], [0.0, 0.0, 0.0])
    assert pair.mean + 1.99 * pair.error < 0 < pair.high
    assert judge({"a": pair}, "uniform", "worst_excess", {"a": "adaptive"})[0].kind == "no better"


def test_sentences_name_who_does_not_beat_a_static_mixture():
    told = dict(_said(_verdicts(METHODS))[1:4])
    assert told == {
        "better": "Better than uniform on worst excess: better.",
        "no better": "Not to be told from uniform on worst excess: equal.",
        "worse": "Worse than uniform on worst excess: worse.",
    }


def test_the_summary_counts_methods_and_merges_apart():
    shifts = {"a": -0.1, "b": 0.0, "c": 0.0, "d": 0.1, "merge_ties": 0.1, "merge_linear": 0.2}
    (kind, text), *_ = _said(_verdicts(shifts, merges=("merge_ties", "merge_linear")))
    assert kind == "summary"
    assert text == (
        "The best static mixture on worst excess is uniform, 0.290. Of 4 adaptive methods 1 beats it, 2 cannot be told "
        "from it, 1 is worse. Of 2 merges none beats it, 2 are worse."
    )


def test_words_follow_the_corrected_differences():
    # p of -.01 with this noise: t = 2.236 on 4 degrees of freedom, .089; of -.013, .044: clear alone, not among ten
    shifts = {"clear": -0.1, "lucky": -0.013, **{f"same {k}": k / 1e4 for k in range(8)}}
    verdicts = _verdicts(shifts)
    assert [v.kind for v in verdicts[:2]] == ["better", "no better"]
    assert verdicts[0].adjusted_p == pytest.approx(10 * verdicts[0].pair.p)
    assert verdicts[1].pair.p < 0.05 < verdicts[1].adjusted_p
    assert [v.kind for v in _verdicts({"lucky": -0.013})] == ["better"]
    summary, *_, text = (text for _, text in _said(verdicts))
    assert "1 beats it, 9 cannot be told from it." in summary
    assert "the words follow Holm's correction for 10 differences to uniform. If there were none, 0.5 of" in text
    assert text.endswith("those that do and do not count are below: lucky; above: none.")


def test_methods_with_the_same_numbers_count_once():
    verdicts = _verdicts({"group_dro": -0.013, "gr_dpo": -0.013})
    assert [v.kind for v in verdicts] == ["better", "better"]
    assert verdicts[0].adjusted_p == verdicts[1].adjusted_p == verdicts[0].pair.p
    text = _said(verdicts)[-1][1]
    assert "correction for 1 difference to uniform (1 of the 2 methods have the numbers of another)" in text


def test_a_best_mixture_that_no_table_shows_gets_its_numbers():
    verdicts = _verdicts({"a": -0.1}, "temperature") + _verdicts({"a": 0.1}, "uniform")
    told = [text for _, text in _said(verdicts, best="temperature")]
    assert "Better than temperature on worst excess: a -0.100 [-0.112, -0.088]." in told
    assert told[-1] == "Worse than uniform on worst excess: a."


def test_too_few_seeds_say_so_and_nothing_else():
    verdicts = _verdicts(METHODS, seeds=2) + _verdicts({"better": -0.1}, "proportional", seeds=2)
    assert {v.kind for v in verdicts} == {"too few"}
    assert _said(verdicts) == [
        ("too few", "Too few seeds to tell, 3 shared are wanted: better (2 shared) against uniform, proportional."),
        ("too few", "Too few seeds to tell, 3 shared are wanted: equal (2 shared), worse (2 shared) against uniform."),
    ]
