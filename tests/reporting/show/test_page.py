"""The report is one well-formed file that asks for nothing and escapes every name."""

import re
import sys
from html.parser import HTMLParser

import pytest

from mixalign.errors import MixalignError
from mixalign.reporting.show.page import write_report
from tests.reporting.made_up import find

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Collects tags, addresses and text, and checks that every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.figures, self.words, self.places = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.addresses += [values[name] for name in ("src", "href", "data", "srcset") if name in values]
        self.places += [values["id"]] if "id" in values else []
        if values.get("role") == "img":
            self.figures.append(values["aria-label"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)


@pytest.fixture
def write_page(tmp_path):
    def write(baseline=None):
        path = write_report(find(tmp_path / "runs"), tmp_path / "out" / "report.html", baseline)
        text = path.read_text(encoding="utf-8")
        return Page(text), text

    return write


def without_plotly(text):
    """The page without the script that is plotly's."""
    return "".join(part for part in re.split(r"(<script>.*?</script>)", text, flags=re.DOTALL) if len(part) < 1_000_000)


def test_a_full_report(write_run, write_page):
    for mixer, worst in (("ama_s", 0.1), ("uniform", 0.2), ("proportional", 0.3)):
        for seed in range(3):
            write_run(mixer, seed, {"a": 0.02, "b": worst + 0.01 * seed})
    write_run("ama_r", 5, finished=False)
    page, text = write_page()
    assert all(address.startswith("#") for address in page.addresses), "it asks for nothing"
    assert {address[1:] for address in page.addresses} <= set(page.places)
    ours = without_plotly(text)
    assert not re.search(r"https?:|@import|url\(", ours)
    assert len(page.figures) == 10  # four over time, the dumbbells, the front, two forests of two scores; no costs
    assert all(len(label) > 40 for label in page.figures)
    words = " ".join(page.words)
    for part in (
        "Take",
        "proven",
        "Better than uniform on worst excess: ama_s.",
        "worst excess minus uniform",
        "[-0.100, -0.100]",
        "Skipped runs",
        "runs/ama_r_5: no eval.json",
        "better in 3/3",
    ):
        assert part in words
    order = ["Take", "Weights of the tasks over time", "Each task from start to end", "minus that of", "runs/ama_s_0"]
    places = [words.index(part) for part in order]
    assert places == sorted(places)
    assert page.tags.count("details") == 9
    assert len(ours) < 300_000


def test_a_single_run_is_compared_with_nothing(write_run, write_page):
    path = write_run(
        "ama_s", 3, {"a": 0.1, "b": 0.2}, settings={"optimizer": {"lr": 0.0004}, "model": {"path": "org/m"}}
    )
    (path / "train.log").write_text("2026-01-02 03:04:05,678 WARNING x: too <few> rows\n")
    page, _ = write_page()
    words = " ".join(page.words)
    assert page.words.count("ama_s, seed 3") == 2  # title and heading
    for part in ("Cost and mean", "minus", "Take", "room for one run", "Every run", "Baseline"):
        assert part not in words.partition("What the words mean")[0]
    for part in ("too <few> rows", "lr 0.0004", "org/m", "0.200"):
        assert part in words


def test_runs_that_do_not_compare_have_a_section_each(write_run, write_page):
    for mixer in ("uniform", "ama_s"):
        write_run(mixer, 0, {"a": 0.1, "b": 0.2})
        write_run(mixer, 0, {"c": 0.1, "d": 0.2}, folder=f"runs/other/{mixer}")
    write_run("odm", 0, {"a": 0.1, "b": 0.2}, folder="runs/sft", objective="sft")
    page, _ = write_page("odm")
    assert [place for place in page.places if "-" not in place] == ["g1", "g2", "g3", "words"]
    assert {address[1:] for address in page.addresses} <= set(page.places)
    words = page.words
    assert [words.count(f"DPO on {names}") for names in ("a, b", "c, d")] == [2, 2]  # contents and heading
    assert words.count("SFT on a, b") == 2


def test_without_plotly_there_are_sentences_and_tables(write_run, write_page, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    write_run("uniform", 0, {"a": 0.1, "b": 0.2})
    page, text = write_page()
    assert "plotly is not installed, so there are no figures" in text
    assert "table" in page.tags


@pytest.mark.long
def test_eight_labels_of_twenty_tasks_stay_below_three_megabytes(write_run, write_page):
    for index in range(8):
        write_run(f"mixer_{index}", 0, {f"task {k}": 0.01 * (k + index) for k in range(20)}, steps=200)
    assert len(without_plotly(write_page()[1])) < 1_000_000


def test_names_are_escaped(write_run, write_page):
    write_run("a&<i>", 0, {"<b>x</b>": 0.1, '"quoted" & co': 0.2}, folder="runs/<u>0")
    write_run("uniform", 0, {"<b>x</b>": 0.1, '"quoted" & co': 0.2}, finished=False, folder="runs/<u>1")
    page, text = write_page()
    assert not {"b", "i", "u"} & set(page.tags)
    assert "&lt;b&gt;x&lt;/b&gt;" in text
    assert "<b>x</b>" in page.words
    assert "a&amp;&lt;i&gt;" in text


def test_one_bare_run_makes_a_page(write_run, write_page):
    write_run("uniform", 0, {"a": None, "b": None}, history=False, metrics=False)
    page, _ = write_page(baseline="missing")
    words = " ".join(" ".join(page.words).split())
    assert "No run has the baseline missing" in words
    assert [label.partition(".")[0] for label in page.figures] == ["Each task from start to end"]


def test_what_stands_in_backticks_is_code_and_stays_escaped(write_run, write_page):
    write_run("uniform", 0, {"<b>`a`": 0.1})
    _, text = write_page(baseline="<i>")
    assert "No run has the baseline <code>&lt;i&gt;</code>" in text
    assert "<b>" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def test_what_has_room_for_one_run_opens_at_the_best_whose_mixture_moves(write_run, write_page):
    for mixer, excess in (("uniform", 0.1), ("ama_s", 0.2), ("ama_r", 0.3)):
        write_run(mixer, 0, {"a": excess, "b": excess})
    _, text = write_page()
    assert re.findall(r"<option selected>(.*?)<", text) == ["ama_s"]
    assert 'data-run="ama_s"' in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "text", 10**400])
def test_unusual_numbers_do_not_break_the_page(value, write_run, write_page):
    row = dict.fromkeys(("rows", "loss", "accuracy", "margin", "excess", "gap", "specialist_loss"), value)
    worst = {key: {"task": "a", "value": value} for key in ("loss", "accuracy", "excess", "gap")}
    scores = {"tasks": {"a": row}, "mean": row, "worst": worst}
    write_run("ama_s", 0, {"a": 0.1}, scores=scores, costs={"cost.json": {"steps": value, "seconds": value}})
    write_run("ama_s", 1, {"a": 0.1})
    write_run("uniform", 0, {"a": 0.2})
    page, text = write_page()
    assert "ama_s seed 0 has no worst excess" in " ".join(page.words)
    assert len(page.figures) >= 4
    assert ">nan<" not in text.lower()
    assert "NaN" not in "".join(re.findall(r'application/json">(.*?)</script>', text))


def test_nothing_but_unusual_numbers(write_run, write_page):
    row = dict.fromkeys(("loss", "accuracy"), float("nan"))
    scores = {"tasks": {"a": row}, "mean": row, "worst": {}}
    for mixer in ("uniform", "ama_s"):
        write_run(mixer, 0, {"a": 0.1}, scores=scores)
    page, _ = write_page()
    assert "worst loss - nats" in " ".join(page.words)


def test_a_run_that_cannot_be_read_is_listed_with_the_reason(write_run, write_page):
    write_run("uniform", 0)
    (write_run("ama_s", 0) / "metrics.csv").write_bytes(b"step,\xff\n")
    page, _ = write_page()
    assert re.search(r"runs/ama_s_0.{0,200}is not UTF-8 text", " ".join(page.words), re.DOTALL)


@pytest.mark.long
def test_the_same_runs_give_the_same_bytes(write_run, write_page):
    write_run("ama_s", 0)
    write_run("uniform", 0)
    assert write_page()[1] == write_page()[1]


def test_no_scores_no_page(write_run, write_page, tmp_path):
    write_run("ama_s", 0, finished=False)
    with pytest.raises(MixalignError, match="nothing to compare"):
        write_page()
    assert not (tmp_path / "out").exists()
