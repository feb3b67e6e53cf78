"""The report is one well-formed file that asks for nothing and escapes every name."""

import base64
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
        self.open, self.tags, self.addresses, self.images, self.words, self.places = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.addresses += [values[name] for name in ("src", "href", "data", "srcset") if name in values]
        self.places += [values["id"]] if "id" in values else []
        if tag == "img":
            self.images.append(values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def write_page(tmp_path):
    def write(baseline=None):
        path = write_report(find(tmp_path / "runs"), tmp_path / "out" / "report.html", baseline)
        text = path.read_text(encoding="utf-8")
        return Page(text), text

    return write


def test_a_full_report(write_run, write_page):
    for mixer, worst in (("ama_s", 0.1), ("uniform", 0.2), ("proportional", 0.3)):
        for seed in range(3):
            write_run(mixer, seed, {"a": 0.02, "b": worst + 0.01 * seed})
    write_run("ama_r", 5, finished=False)
    page, text = write_page()
    assert all(address.startswith(("data:image/svg+xml;base64,", "#")) for address in page.addresses)
    assert {address[1:] for address in page.addresses if address.startswith("#")} == set(page.places)
    assert "http" not in text.split("base64")[0]
    assert "@import" not in text
    assert "url(" not in text
    assert len(page.images) == 7  # two forests among them
    assert all(len(image["alt"]) > 40 for image in page.images)
    assert base64.b64decode(page.images[0]["src"].partition(",")[2]).startswith(b"<?xml")
    words = " ".join(page.words)
    for part in (
        "Better than uniform on worst excess: ama_s.",
        "worst excess minus uniform",
        "[-0.100, -0.100]",
        "Skipped runs",
        "runs/ama_r_5: no eval.json",
        "3/3",
        "best adaptive mixer",
    ):
        assert part in words
    assert page.tags.count("details") == 9
    assert len(text) < 3_000_000


@pytest.mark.long
def test_eight_labels_of_twenty_tasks_stay_below_three_megabytes(write_run, write_page):
    for index in range(8):
        write_run(f"mixer_{index}", 0, {f"task {k}": 0.01 * (k + index) for k in range(20)}, steps=200)
    assert len(write_page()[1]) < 3_000_000


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
    words = " ".join(page.words)
    assert "There is nothing to draw: no run has mix.jsonl." in words
    assert "No run has the baseline `missing`" in words
    assert "only one mixer setting" in words
    assert len(page.images) == 2


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
    assert len(page.images) >= 4
    assert ">nan<" not in text.lower()


def test_nothing_but_unusual_numbers(write_run, write_page):
    row = dict.fromkeys(("loss", "accuracy"), float("nan"))
    scores = {"tasks": {"a": row}, "mean": row, "worst": {}}
    for mixer in ("uniform", "ama_s"):
        write_run(mixer, 0, {"a": 0.1}, scores=scores)
    page, _ = write_page()
    assert "Lowest worst loss: uniform, - nats." in page.words or "Lowest worst loss: ama_s, - nats." in page.words


def test_a_run_that_cannot_be_read_is_listed_with_the_reason(write_run, write_page):
    write_run("uniform", 0)
    (write_run("ama_s", 0) / "metrics.csv").write_bytes(b"step,\xff\n")
    page, _ = write_page()
    assert any("runs/ama_s_0" in words and "is not UTF-8 text" in words for words in page.words)


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
