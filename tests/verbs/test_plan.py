"""The plan: rows, shares and epochs by arithmetic, the stages that would run, and what deserves a second look."""

import io
import json

import pytest

from mixalign.config.compose import compose_settings
from mixalign.errors import MixalignError
from mixalign.jobs.job import prepare
from mixalign.planning.plan import PlanRow, plan_rows, warnings_of
from mixalign.verbs import plan


def rows_of(overrides: list[str]) -> dict[str, PlanRow]:
    settings = compose_settings(overrides)
    return {row.counts.task: row for row in plan_rows(prepare(settings), settings.mixer)}


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch):
    """Whatever that of the tests is."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def own(tiny_local, tmp_path):
    """Two tasks of one's own: `sums` with doubled rows and a column too many, `talk` of two turns."""
    sums = [{"prompt": f"{n}=", "completion": str(n), "id": n, "note": "x"} for n in (1, 2, 3, 1, 1)]
    turns = [("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "So\nlong")]
    talk = {"messages": [{"role": role, "content": text} for role, text in turns]}
    other = {"messages": [{"role": role, "content": text + "!"} for role, text in turns]}
    held = {"sums": {"prompt": "4=", "completion": "4", "id": 4, "note": "x"}, "talk": other}
    for task, rows in {"sums": sums, "talk": [talk] * 2}.items():
        for split, part in {"train": rows, "validation": [held[task]]}.items():
            path = tmp_path / "tasks" / task / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in part))
    root = f"data.root={tmp_path / 'tasks'}"
    return tiny_local(
        root, "objective=sft", "mixer=uniform", "optimizer.warmup_steps=0", "data.tasks.sums.columns={note: null}"
    )


@pytest.fixture
def unequal(tiny):
    """helpful has 60 rows, compare 20."""
    sizes = "validation_rows: 8, test_rows: 8"
    return lambda *more: tiny(
        "data.tasks.reverse=null",
        f"data.tasks.helpful={{generator: helpful, rows: 60, {sizes}}}",
        f"data.tasks.compare={{generator: compare, rows: 20, {sizes}}}",
        *more,
    )


def test_shares_and_epochs_of_a_proportional_mixture(unequal):
    """4 steps of 6 rows are 24 draws: 60 of 80 rows get 18 of them, 20 rows get 6; either way 0.3 epochs."""
    rows = rows_of(unequal("mixer=proportional"))
    assert {task: row.sample for task, row in rows.items()} == pytest.approx({"helpful": 0.75, "compare": 0.25})
    assert {task: row.epochs for task, row in rows.items()} == pytest.approx({"helpful": 0.3, "compare": 0.3})
    assert {task: row.epochs_if_all for task, row in rows.items()} == pytest.approx({"helpful": 0.4, "compare": 1.2})
    assert {row.validation for row in rows.values()} == {8}


def test_shares_of_tokens_count_the_length_of_rows(unequal):
    """A row of helpful is <s> h.....= and two answers of 5 + EOS and 2 + EOS; one of compare <s> c....= and 1 + EOS."""
    rows = rows_of(unequal("mixer=uniform"))
    length = {"helpful": 8 + 6 + 3, "compare": 7 + 2 + 2}
    assert {task: row.counts.tokens / row.counts.kept for task, row in rows.items()} == length
    assert rows["helpful"].token_share == pytest.approx(17 / 28)
    assert rows["helpful"].supervised_share == pytest.approx(9 / (9 + 4))
    assert rows["compare"].epochs == pytest.approx(12 / 20)


@pytest.mark.parametrize(
    ("mixer", "stages"),
    [
        ("ama_s", ["reference: 3 steps", "specialists: 3, 9 steps in all", "generalist: 4 steps"]),
        ("uniform", ["reference: 3 steps", "generalist: 4 steps"]),
    ],
)
def test_the_plan_is_printed_and_nothing_is_trained(tiny, tmp_path, capsys, mixer, stages):
    plan.run(compose_settings(tiny(f"mixer={mixer}", "optimizer.warmup_steps=0", f"cache_dir={tmp_path / 'none'}")))
    out = capsys.readouterr().out
    assert [line.split(" x ")[0] for line in out.splitlines() if " x " in line] == [
        f"{stage} of SFT" if stage.startswith("reference") else stage for stage in stages
    ]
    assert ("the mixer moves it" in out) == (mixer == "ama_s")
    assert "warning" not in out
    for task in ("helpful", "reverse", "compare"):
        assert task in out
    assert not any(tmp_path.iterdir())


def test_the_plan_of_a_sweep_has_the_specialists_over_which_its_runs_are_compared(tiny, tmp_path, in_process):
    given = tiny("mixer=uniform", "specialists.train=auto", f"cache_dir={tmp_path}")
    for sweep in ((), ("-m", "seed=1,2")):
        code, out, said = in_process("plan", *given, *sweep)
        assert code == 0, said  # also with keys on both sides of -m
        assert out.count("specialists: 3") == (2 if sweep else 0)


def test_sft_needs_no_reference_stage(tiny, capsys):
    plan.run(compose_settings(tiny("objective=sft", "mixer=uniform")))
    assert "reference:" not in capsys.readouterr().out


def test_a_task_that_is_repeated_too_often_is_named(unequal):
    rows = list(rows_of(unequal("mixer=uniform", "steps=40")).values())
    assert [row.epochs for row in rows] == pytest.approx([120 / 60, 120 / 20])
    (said,) = warnings_of(rows)
    assert "`compare` (6.0 times)" in said
    assert "helpful" not in said


def test_rows_that_are_cut_or_dropped_are_named(tiny):
    said = warnings_of(list(rows_of(tiny("data.max_length=11")).values()))
    # <s> h.....= and 5 letters and EOS are 14 tokens; <s> c....= and a sign and EOS are 9
    assert [text.split(":")[0] for text in said] == ["Task `helpful`", "Task `reverse`"]
    assert "40 of 40 rows are cut" in said[0]


def test_duplicates_are_counted(own):
    assert {task: row.duplicates for task, row in rows_of(own).items()} == {"sums": 2, "talk": 1}


SHOWN = r"""
[[ ]]: learned; the rest is only read. \n: a line break; <...>: a special token
sums: row 1 of 5; 2 of 5 tokens learned
  prompt      <s>1=
  completion  [[1</s>]]

talk: row 1 of 2; 14 of 62 tokens learned
  prompt      <s><|user|>Hi<|assistant|>
  completion  [[Hello</s>]]<|user|>Bye<|assistant|>[[So\n
              long</s>]]

"""


def test_a_row_of_each_task_is_shown_with_its_mask(own, in_process):
    code, out, err = in_process("plan", *own)
    assert code == 0, err
    assert SHOWN in out
    table = out[out.index("columns used") :]
    assert "sums  prompt, completion  id      note" in table
    assert "talk  messages            -       -" in table


@pytest.mark.parametrize(
    ("arguments", "numbers"), [(["--rows", "2"], "12"), (["--rows=0"], ""), (["rows=0"], ""), (["rows=9"], "12345")]
)
def test_as_many_rows_as_are_asked_for(own, in_process, arguments, numbers):
    code, out, err = in_process("plan", *arguments, *own)
    assert code == 0, err
    assert "".join(line[10] for line in out.splitlines() if line.startswith("sums: row ")) == numbers
    assert ("learned" in out) == bool(numbers)


def test_the_rejected_answer_is_shown_too(tiny, in_process):
    _, out, _ = in_process("plan", *tiny())
    (place,) = [n for n, line in enumerate(out.splitlines()) if line.startswith("compare: row 1 of 40; 4 of 11 tokens")]
    prompt, chosen, rejected = out.splitlines()[place + 1 : place + 4]
    assert prompt.startswith("  prompt    <s>c")
    assert (chosen[:12], rejected[:12]) == ("  chosen    ", "  rejected  ")
    assert {chosen[12:], rejected[12:]} == {"[[<</s>]]", "[[></s>]]"}


def test_json_is_one_object_and_all_of_standard_output(own, in_process):
    code, out, err = in_process("plan", "--json", *own)
    assert code == 0, err
    made = json.loads(out)
    sums, talk = made["tasks"]
    assert (sums["task"], sums["duplicates"], sums["validation_rows"]) == ("sums", 2, 1)
    assert sums["splits"]["train"] == {
        **dict.fromkeys(("dropped_long_prompt", "dropped_unsupervised", "truncated", "prefix_mismatch", "same"), 0),
        **{"rows": 5, "kept": 5, "tokens": 25, "supervised_tokens": 10},
    }
    assert sums["columns"] == {"used": ["prompt", "completion"], "unused": ["id"], "declared_unused": ["note"]}
    assert sums["share"] == pytest.approx({"rows": 0.5, "tokens": 5 / 67, "supervised_tokens": 2 / 16})
    (row,) = talk["rows"]
    assert row["prompt"] == {"text": "<s><|user|>Hi<|assistant|>", "tokens": 24}
    assert row["answers"][0]["learned"] == ["Hello</s>", "So\nlong</s>"]
    assert [span["learned"] for span in row["answers"][0]["spans"]] == [True, False, True]
    assert (row["tokens"], row["supervised_tokens"], row["label"]) == (62, 14, None)
    read, often = made["warnings"]
    assert read.startswith("Task `sums`: nothing is learned from `id`.")
    assert "`talk` (6.0 times)" in often
    assert made["stages"] == ["generalist: 4 steps x 6 rows"]


def test_what_stands_beside_the_keys_is_taken_out():
    taken = plan.take_options(["seed=1", "--rows", "3", "--json", "-cp", "x"])
    assert taken == (plan.Options(3, True), ["seed=1", "-cp", "x"])
    assert plan.take_options(["--time"]) == (plan.Options(time=True), [])
    assert plan.take_options([]) == (plan.Options(1, False), [])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rows"], "`--rows` is empty"),
        (["--rows", "some"], "`--rows` is some"),
        (["--rows=-1"], "`--rows` is -1"),
        (["--json", "-m", "seed=1,2"], "Leave out `-m`"),
    ],
)
def test_options_that_say_nothing_are_refused(arguments, says):
    with pytest.raises(MixalignError, match=says):
        plan.take_options(arguments)


def test_help_names_the_options(cli):
    done = cli("plan", "--help")
    assert done.returncode == 0, done.stderr
    assert "--rows N" in done.stdout
    assert "--json" in done.stdout
    assert "batch_size" in done.stdout  # a key


def test_letters_that_standard_output_cannot_write(own, monkeypatch, tmp_path):
    path = tmp_path / "tasks" / "sums" / "train.jsonl"
    path.write_text(json.dumps({"prompt": "caf\u00e9", "completion": "x", "note": 1}) + "\n")
    monkeypatch.setattr("sys.stdout", paper := io.TextIOWrapper(io.BytesIO(), "ascii"))
    plan.run(compose_settings(own))
    paper.seek(0)
    assert r"<s>caf\xe9" in paper.read()


def test_the_plan_of_rounds_says_what_they_do(tiny, capsys):
    """Three tasks of 40 rows and as many target tables of 8: 120 * 3 + 24 + (3 * 32 + 24) passes, in batches of 6."""
    text = _planned(tiny("mixer=ideal", "objective=sft", "mixer.rounds=3"), capsys)
    assert "volumes then change between trainings" in text
    assert "this mixture stays" not in text
    assert "rounds 0 to 3: 4 trainings from the same start, 4 steps each x 6 rows" in text
    assert "influence after each of them but the last: 144 rows of 6 tables, 504 passes over a row" in text
    assert "as many as 84 steps of training" in text
    assert "specialists:" not in text


def _planned(overrides, capsys):
    plan.run(compose_settings(overrides))
    return " ".join(capsys.readouterr().out.split())


def test_rows_that_are_cut_for_validation_are_counted(own, tmp_path, in_process):
    (tmp_path / "flat").mkdir()
    rows = "".join(json.dumps({"prompt": f"{n}=", "completion": str(n)}) + "\n" for n in range(30))
    (tmp_path / "flat" / "lone.jsonl").write_text(rows)
    places = [*own, f"data.tasks.lone.path={tmp_path / 'flat' / 'lone.jsonl'}"]
    code, text, _ = in_process("plan", *places, "--rows", "0")
    assert code == 0
    said = " ".join(text.split())
    assert "validation: 3 of the 30 rows of `lone`, taken from the train rows" in said
    assert "(data.validation_fraction=0.1 of the prompts)" in said
    assert "test: no task has test rows, and none are cut: results stand on the validation rows" in said
    few = in_process("plan", *places, "data.validation_fraction=0.2", "+data.tasks.lone.max_rows=10", "--json")[1]
    assert "validation: 6 of the 30 rows of `lone`" in json.loads(few)["held_out"][0]
    (tmp_path / "flat" / "held.jsonl").write_text(rows.replace("=", "+"))
    held = [f"+data.tasks.lone.{split}={tmp_path / 'flat' / 'held.jsonl'}" for split in ("validation", "test")]
    assert (
        json.loads(in_process("plan", *places, *held, "+data.tasks.lone.on_overlap=drop", "--json")[1])["held_out"]
        == []
    )
