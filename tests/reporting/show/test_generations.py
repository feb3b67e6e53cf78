"""Scores of generated answers, and the answers of several runs to the same prompts."""

import json

import pytest

from mixalign.reporting.judge.comparison import compare
from mixalign.reporting.show.generations import ShownAnswer, generation_scores, shown_samples
from mixalign.reporting.show.page import write_report
from tests.reporting.made_up import find

HEAD, TAIL = "<|im_start|>system\nBe good.<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"


def sample(task, asked, after, score, **more):
    entry = {
        "task": task,
        "row": 1,
        "prompt": f"{HEAD}{asked}{TAIL}",
        "answer": "yes <b>",
        "before": "hm",
        "after": after,
    }
    return entry | ({} if score is None else {"score_before": 0.0, "score": score}) | more


@pytest.fixture
def answered(write_run):
    """Writes a run whose model has answered."""

    def write(mixer, seed, score, entries):
        folder = write_run(mixer, seed, {"a": 0.1, "b": 0.2})
        result = json.loads((folder / "eval.json").read_text())
        for part in (result["tasks"]["a"], result["mean"]):
            part |= {"score_before": 0.25, "score": score}
        result["worst"]["score"] = {"task": "a", "value": score}
        (folder / "eval.json").write_text(json.dumps(result))
        (folder / "generations.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        return folder

    return write


def test_scores_of_the_start_and_of_every_label(answered, tmp_path):
    for seed, score in enumerate((0.5, 0.7)):
        answered("uniform", seed, score, [])
        answered("ama_s", seed, score + 0.2, [])
    runs = find(tmp_path)
    table = generation_scores(runs)
    assert table.titles == ["model", "seeds", "a", "mean"]
    by_label = {row[0]: row[1:] for row in table.rows}
    assert by_label["start model"] == ["2", "0.250+-0.000", "0.250+-0.000"]
    assert by_label["uniform"][1].startswith("0.600+-0.1")
    assert by_label["ama_s"][1].startswith("0.800+-0.1")
    compared = compare(runs, "uniform")
    (row,) = [row for row in compared.rows if row.label == "ama_s"]
    assert row.scores["mean_score"].mean == pytest.approx(0.8)
    assert row.differences["uniform"]["mean_score"].wins == 2  # higher is better


def test_answers_to_the_same_prompt_stand_side_by_side(answered, tmp_path):
    answered(
        "uniform", 0, 0.0, [sample("a", f"q{n}?", f"u{n}", 0.0) for n in range(5)] + [sample("b", "why?", "so", None)]
    )
    answered(
        "ama_s", 0, 1.0, [sample("a", f"q{n}?", f"s{n}", 1.0) for n in range(5)] + [sample("b", "why?", "as", None)]
    )
    answered("ama_s", 1, 1.0, [sample("a", "another?", "", 1.0)])
    shown = shown_samples(find(tmp_path))
    a, b = shown
    assert [one.prompt for one in a.first] == ["q0?", "q1?", "q2?"]
    assert ([one.prompt for one in a.more], a.note) == (["q3?", "q4?"], "3 of 5 shown")
    assert ([one.prompt for one in b.first], b.more, b.note) == (["why?"], [], "")
    start = [ShownAnswer("wanted", "yes <b>"), ShownAnswer("start model", "hm", "wrong")]
    assert a.first[1].answers[:2] == start
    assert {*a.first[1].answers[2:]} == {ShownAnswer("uniform", "u1", "wrong"), ShownAnswer("ama_s", "s1", "right")}
    assert {answer.mark for answer in b.first[0].answers} == {""}
    text = write_report(find(tmp_path), tmp_path / "report.html").read_text()
    assert "yes &lt;b&gt;" in text
    assert 'id="g1-generations"' in text
    assert "3 of 5 shown" in text
    assert '<details class="more"><summary>2 more prompts of a</summary>' in text


def test_what_all_prompts_of_a_task_ask_is_shown_and_the_marks_of_the_template_are_not(answered, tmp_path):
    plain = [sample("b", "", "so", None) | {"prompt": f"Add up, <b> for bold.\n{n} + 1 = "} for n in range(2)]
    answered("uniform", 0, 0.0, [*(sample("a", f"Answer as JSON.\nq{n} > 1?", "u", 0.0) for n in range(2)), *plain])
    a, b = shown_samples(find(tmp_path))
    assert [one.prompt for one in a.first] == ["Answer as JSON.\nq0 > 1?", "Answer as JSON.\nq1 > 1?"]
    assert [one.prompt for one in b.first] == [f"Add up, <b> for bold.\n{n} + 1 =" for n in range(2)]


def test_of_very_many_answers_the_page_says_where_the_rest_is(answered, tmp_path):
    answered("uniform", 0, 0.0, [sample("a", f"q{n}?", "u", 0.0) for n in range(60)])
    (a,) = shown_samples(find(tmp_path))
    assert (len(a.first), len(a.more)) == (3, 47)
    assert a.note == "3 of 60 shown; 47 more can be opened, the last 10 are in generations.jsonl only"


def test_runs_that_generated_nothing_have_no_section(write_run, tmp_path):
    write_run("uniform", 0, {"a": 0.1, "b": 0.2})
    runs = find(tmp_path)
    assert generation_scores(runs) is None
    assert shown_samples(runs) == []
    assert "-generations" not in write_report(runs, tmp_path / "report.html").read_text()


def test_a_torn_line_is_named(answered, tmp_path):
    folder = answered("uniform", 0, 0.0, [sample("a", "q?", "u", 0.0)])
    with (folder / "generations.jsonl").open("a") as file:
        file.write('{"task": "a", "pro')
    (run,) = find(tmp_path)
    assert "generations.jsonl`, line 2" in run.skipped
