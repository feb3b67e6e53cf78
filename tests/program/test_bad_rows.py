"""Rows and files that cannot be read or learned from: the task, the file and the line are named, nothing is written."""

import gzip
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
from omegaconf import DictConfig, open_dict

from mixalign.config.compose import compose_config, settings_of
from mixalign.config.settings import DataSettings
from mixalign.data.read.files import read_file
from mixalign.data.read.spec import TaskSpec
from mixalign.errors import MixalignError
from mixalign.jobs.job import prepare
from mixalign.jobs.tasks import task_specs

GOOD = [{"prompt": f"q{n}=", "chosen": f"a{n}", "rejected": f"b{n}"} for n in range(20)]
ASK, SAY = {"role": "user", "content": "Sky?"}, {"role": "assistant", "content": "Blue."}


def lines(*rows) -> bytes:
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows).encode()


def talk(*roles: str) -> list[dict]:
    """Nine conversations with turns of these roles, every one with another beginning."""
    return [{"messages": [{"role": role, "content": f"{role[0]}{n}"} for role in roles]} for n in range(9)]


CASES: dict[str, tuple[str, bytes, str]] = {  # objective/file, its content, and the message behind the task
    "broken line": ("dpo/a.jsonl", lines(GOOD[0], '{"prompt": oops'), "a.jsonl, line 2 is not valid JSON (Expecting"),
    "another broken line": ("dpo/a.jsonl", lines("", GOOD[0], "", "{"), "a.jsonl, line 4 is not valid JSON"),
    "a list": ("dpo/a.jsonl", lines("[1, 2]"), "a.jsonl, line 1 is a JSON list, not"),
    "a list of numbers": ("dpo/a.json", b"[1, 2]", "a.json, row 1 is not an object: `1`."),
    "an array, cut": ("dpo/a.json", json.dumps(GOOD).encode()[:-30], "a.json is not valid JSON (Unterminated string"),
    "an array under the wrong name": (
        "dpo/a.jsonl",
        json.dumps(GOOD, indent=1).encode(),
        "a.jsonl, line 1 is not valid JSON (Expecting value: line 2 column 1 (char 2)), near `[`. Correct or "
        "remove it. If the whole file is one array, call it .json.",
    ),
    "objects in one line": ("dpo/a.jsonl", lines(json.dumps(GOOD[0]) * 2), "a.jsonl, line 1 is not valid JSON (Extra"),
    "a name twice": (
        "dpo/a.jsonl",
        lines('{"prompt": "a", "prompt": "b", "chosen": "c", "rejected": "d"}'),
        "a.jsonl, line 1 is not valid JSON (`prompt` is there twice in one object)",
    ),
    "too deep": ("dpo/a.jsonl", lines("[" * 99999 + "]" * 99999), "a.jsonl, line 1 is not valid JSON (maximum"),
    "not UTF-8": ("dpo/a.jsonl", lines(GOOD[0])[:-3] + b"\xe9\n", "a.jsonl cannot be read: 'utf-8' codec can't decode"),
    "UTF-16": ("dpo/a.jsonl", "x".encode("utf-16"), "a.jsonl cannot be read: 'utf-8' codec can't decode byte 0xff"),
    "not gzip": ("dpo/a.jsonl.gz", b"hello", "a.jsonl.gz cannot be read: Not a gzipped file"),
    "half a gzip": ("dpo/a.jsonl.gz", gzip.compress(lines(*GOOD))[:-20], "a.jsonl.gz cannot be read"),
    "no parquet": ("dpo/a.parquet", b"PAR1 nothing", "a.parquet cannot be read (ArrowInvalid: Parquet magic bytes"),
    "unknown suffix": ("dpo/a.txt", b"hello", "a.txt has a suffix that is not known. Known: .jsonl"),
    "empty": ("dpo/a.jsonl", b"", "is empty: {file} has no rows. Fill it or remove the task."),
    "blank lines": ("dpo/a.jsonl", b"\n  \n\n", "is empty: {file} has no rows."),
    "a head alone": ("dpo/a.csv", b"prompt,chosen,rejected\n", "is empty: {file} has no rows."),
    "a column twice": ("dpo/a.csv", b"prompt,prompt,chosen\na,b,c\n", "a.csv has two columns `prompt`. Rename or"),
    "a cell too many": ("dpo/a.csv", b'a,b\n"x\ny",2\n1,2,3\n', "a.csv, line 4 has 3 cells, but the first line"),
    "a cell too few": ("dpo/a.csv", b"a,b\n1\n", "a.csv, line 2 has 1 cells, but the first line"),
    "an open quote": ("dpo/a.csv", b'a,b\n"1,2\n3,4\n', "a.csv, line 3 is no CSV (unexpected end of data)"),
    "columns": ("dpo/a.jsonl", lines({"question": "a", "answer": "b"}), "a.jsonl, line 1: the columns are question"),
    "many columns": (
        "dpo/a.jsonl",
        lines({f"c{n}": n for n in range(99)}),
        "a.jsonl, line 1: the columns are c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, and 87 more. The nearest",
    ),
    "empty answer": ("dpo/a.jsonl", lines(*GOOD, GOOD[0] | {"chosen": ""}), "a.jsonl, line 21: `chosen` is empty"),
    "prompt of a number": ("dpo/a.jsonl", lines(GOOD[0] | {"prompt": 1}), "a.jsonl, line 1: `prompt` is 1 (int), but"),
    "prompt nan": ("dpo/a.jsonl", lines(GOOD[0] | {"prompt": float("nan")}), "line 1: `prompt` is nan (float)"),
    "answer of a list": (
        "dpo/a.jsonl",
        lines(GOOD[0] | {"chosen": ["a"]}),
        "a.jsonl, line 1: turn 1 of `chosen` is 'a' (str)",
    ),
    "half a character": (
        "dpo/a.jsonl",
        lines('{"prompt": "\\ud83d", "chosen": "a", "rejected": "b"}'),
        r"a.jsonl, line 1: the text holds '\ud83d', half of a surrogate pair. Remove or replace it.",
    ),
    "the same twice": (
        "dpo/a.jsonl",
        lines(*(row | {"rejected": row["chosen"]} for row in GOOD)),
        "(train): `chosen` and `rejected` are the same in all 18 rows that are left, at least up to max_length=32",
    ),
    "the same as far as they are read": (
        "dpo/a.jsonl",
        lines(*({"prompt": f"{n}", "chosen": "x" * 40 + "a", "rejected": "x" * 40 + "b"} for n in range(9))),
        "(train): `chosen` and `rejected` are the same in all 8 rows that are left, at least up to max_length=32",
    ),
    "long prompts": (
        "dpo/a.jsonl",
        lines(*(row | {"prompt": "x" * 50 + row["prompt"]} for row in GOOD)),
        "(train): none of its 18 rows is left. 18 have a prompt of max_length=32 tokens or more",
    ),
    "mixed": ("dpo/a.jsonl", lines(*GOOD, {"prompt": "x", "completion": "y"}), "mixes preference rows (such"),
    "one row": ("dpo/a.jsonl", lines(GOOD[0]), "has 1 rows of one prompt: train or validation would be empty"),
    "no pairs": (
        "dpo/a.jsonl",
        lines(*({"prompt": f"{n}", "completion": "a"} for n in range(9))),
        "(train): row 1 has no `chosen` and `rejected`, but objective=dpo needs preference rows",
    ),
    "no labels": (
        "kto/a.jsonl",
        lines(*({"prompt": f"{n}", "completion": "a"} for n in range(9))),
        "(train): row 1 has no `label` of true or false beside `prompt` and `completion`",
    ),
    "other labels": (
        "kto/a.jsonl",
        lines(*({"prompt": f"{n}", "completion": "a", "label": "good"} for n in range(9))),
        "line 1: `label` is 'good' (str), but says whether an answer is a desirable one: true or false, or 1 or 0.",
    ),
    "labels of a table": (
        "sft/a.csv",
        b"prompt,completion,label\n" + b"".join(b"say %d,ok,False\n" % n for n in range(9)),
        "(train): row 1 is an unpaired preference",
    ),
    "labels": (
        "sft/a.jsonl",
        lines(*({"prompt": f"{n}", "completion": "a", "label": True} for n in range(9))),
        "(train): row 1 is an unpaired preference",
    ),
    "answers of the user": (
        "dpo/a.jsonl",
        lines(*({"prompt": [ASK], "chosen": [ASK], "rejected": [SAY]} for _ in range(9))),
        "a.jsonl, line 1: `chosen` has no turn of the role `assistant`; its turns are of user. Correct it.",
    ),
    "misspelt roles": (
        "sft/a.jsonl",
        lines(*talk("user", "asistant")),
        "line 1: turn 2 of `messages` has the role 'asistant'. Did you mean `assistant`?",
    ),
    "no assistant": (
        "sft/a.jsonl",
        lines(*talk("user", "tool")),
        "give the rows an answer. The turns of row 1 have the roles user, tool; those of `assistant` are learned.",
    ),
    "a turn of a text": ("sft/a.jsonl", lines({"messages": ["hi"]}), "line 1: turn 1 of `messages` is 'hi' (str)"),
    "no role": ("sft/a.jsonl", lines({"messages": [{"content": "a"}]}), "line 1: turn 1 of `messages` has no `role`"),
    "content of a number": (
        "sft/a.jsonl",
        lines({"messages": [ASK | {"content": 3}, SAY]}),
        "a.jsonl, line 1: turn 1 of `messages` has `content` 3 (int), but it must be a text.",
    ),
    "tools": ("sft/a.jsonl", lines({"messages": [ASK, SAY], "tools": "[{"}), "line 1: `tools` is a text that is not"),
}


@pytest.fixture(scope="module")
def configured(tiny_local) -> Callable[..., DictConfig]:
    """A run on one file, `task`, with an objective."""
    composed = lru_cache(None)(
        lambda objective: compose_config(tiny_local(f"objective={objective}", "data.max_length=32"))
    )

    def go(objective: str, cache: Path, **task) -> DictConfig:
        cfg = composed(objective).copy()
        cfg.cache_dir = str(cache)
        with open_dict(cfg):
            cfg.data.tasks = {"task": task}
        return cfg

    return go


@pytest.fixture
def refuse(configured, tmp_path) -> Callable[..., str]:
    """Reads a task, expects an error that a user is meant to read, and gives its message."""

    def go(objective: str = "dpo", **task) -> str:
        with pytest.raises(MixalignError) as caught:
            prepare(settings_of(configured(objective, tmp_path / "cache", **task)))
        assert not (tmp_path / "cache").exists()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return go


@pytest.mark.parametrize("case", CASES)
def test_the_task_the_file_and_the_line_are_named(refuse, tmp_path, case):
    where, content, said = CASES[case]
    objective, name = where.split("/")
    file = tmp_path / name
    file.write_bytes(content)
    message = refuse(objective, path=str(file))
    assert message.startswith("Task `task`")
    assert said.replace("{file}", str(file)) in message
    assert file.read_bytes() == content


def test_some_pairs_of_two_same_answers_are_counted_and_kept(configured, tmp_path, caplog):
    (tmp_path / "a.jsonl").write_bytes(lines(*GOOD, {"prompt": "x", "chosen": "y", "rejected": "y"}))
    job = prepare(settings_of(configured("dpo", tmp_path / "cache", path=str(tmp_path / "a.jsonl"))))
    assert sum(count.same for _, count in job.counts) == 1
    assert sum(count.kept for _, count in job.counts) == 21
    assert "1 with the same tokens in `chosen` and `rejected`, which teach nothing" in caplog.text


def test_cells_of_a_csv_stay_as_they_are_written(configured, tmp_path):
    rows = ["prompt,chosen,rejected", '"1,5 ""x""",007,NA', '"a\nb",\u00e9,"' + "z" * 200_000 + '"', "", "1,2,3"]
    (tmp_path / "a.csv").write_text("\r\n".join(rows), encoding="utf-8")
    table = read_file(tmp_path / "a.csv")
    assert [*table.numbers] == [2, 3, 6]
    assert [*map(tuple, map(dict.values, table.rows))] == [
        ('1,5 "x"', "007", "NA"),
        ("a\nb", "\u00e9", "z" * 200_000),
        ("1", "2", "3"),
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"path": "{root}/gone.jsonl"}, "gone.jsonl does not exist. Did you mean"),
        ({"path": "{root}/empty"}, "has no train file"),
        ({"path": "{root}/good.jsonl", "columns": {"prompt": "question"}}, "maps `prompt` to `question`, but"),
        ({"path": "{root}/good.jsonl", "columns": {"prmpt": "q"}}, "`data.tasks.task.columns.prmpt` is not a column"),
        ({"path": "{root}/good.jsonl", "split": "trian"}, "there is no split `trian`. Did you mean `train`?"),
        ({"path": "{root}/good.jsonl", "validation": "{root}/no.jsonl"}, "no.jsonl does not exist"),
        ({"path": "{root}/good.jsonl", "max_rows": 0}, "`data.tasks.task.max_rows` is 0, but must be a whole"),
        ({"path": "{root}/good.jsonl", "max_length": 2}, "none of its 18 rows is left"),
        ({"path": "{root}/good.jsonl", "rows": 5}, "`data.tasks.task.rows` is for generated tasks only"),
        ({"path": "{root}/good.jsonl", "pth": "x"}, "`data.tasks.task.pth` is not a setting of a task. Did"),
        ({"path": 7}, "`data.tasks.task.path` is 7, but must be a text that is not empty"),
        ({}, "task `task` has neither a path nor a generator"),
    ],
)
def test_what_a_task_says_of_its_rows(refuse, tmp_path, settings, said):
    (tmp_path / "good.jsonl").write_bytes(lines(*GOOD))
    (tmp_path / "empty").mkdir()
    message = refuse(**{k: v.format(root=tmp_path) if isinstance(v, str) else v for k, v in settings.items()})
    assert said in message
    assert "task" in message


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("gone", "/gone does not exist. Set `data.root` to one that does."),
        ("twins", "task `math` is there twice"),
        ("empty", "/empty holds no task"),
        ("twins/math", "holds a train file: it is one task. Point to the folder above it"),
        (None, "There is no task. Set `data.root` to a folder of tasks, or name them one by one"),
    ],
)
def test_folders_of_tasks(configured, tmp_path, root, said):
    for file in ("twins/math/train.jsonl", "twins/math.jsonl"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(lines(*GOOD))
    (tmp_path / "empty").mkdir()
    cfg = configured("dpo", tmp_path / "cache")
    cfg.data.tasks, cfg.data.root = {}, root and str(tmp_path / root)
    with pytest.raises(MixalignError) as caught:
        prepare(settings_of(cfg))
    assert said in str(caught.value)


def test_two_tasks_of_the_same_rows(configured, tmp_path):
    (tmp_path / "good.jsonl").write_bytes(lines(*GOOD))
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "good.jsonl")
    cfg = configured("dpo", tmp_path / "cache", path=str(tmp_path / "good.jsonl"))
    with open_dict(cfg):
        cfg.data.tasks.other = {"path": str(tmp_path / "link.jsonl")}
    with pytest.raises(MixalignError, match=r"Tasks `task` and `other` are duplicates: both read .*link\.jsonl"):
        prepare(settings_of(cfg))


@pytest.mark.parametrize(
    ("one", "other", "are_twins"),
    [
        ({}, {}, True),
        ({}, {"max_rows": 5}, True),
        ({}, {"objective": {"beta": 0.2}}, True),
        ({"columns": {"chosen": "chosen"}}, {"columns": {"chosen": "rejected", "rejected": "chosen"}}, False),
        ({}, {"split": "train[:5]"}, False),
        ({"revision": "a"}, {"revision": "b"}, False),
        ({}, {"chat_template_kwargs": {"enable_thinking": False}}, False),
    ],
)
def test_what_makes_two_tasks_of_one_file(one, other, are_twins):
    data = dict(root=None, max_length=32, validation_fraction=0.1, seed=0)
    data["tasks"] = {name: TaskSpec(path="a.jsonl", **spec) for name, spec in (("a", one), ("b", other))}
    if not are_twins:
        assert [*task_specs(DataSettings(**data))] == ["a", "b"]
        return
    with pytest.raises(MixalignError, match=r"Tasks `a` and `b` are duplicates: both read a\.jsonl.*or columns"):
        task_specs(DataSettings(**data))
