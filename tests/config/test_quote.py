"""Paths with any characters on the command line: they are taken, or the override to write is said."""

import json
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from mixalign.config.compose import compose_config, compose_settings
from mixalign.config.quote import check_whole, in_quotes, quoted
from mixalign.errors import MixalignError

NAMES = [
    "a=b (1).jsonl",
    "a b.jsonl",
    "a(1).jsonl",
    "caf\u00e9.jsonl",
    "\u6570\u5b66.jsonl",
    "a,b.jsonl",
    "a[1].jsonl",
    "{a}.jsonl",
    "it's.jsonl",
    'say "a".jsonl',
    "a#b&c;d!.jsonl",
    "a\\.jsonl",
    "~a.jsonl",
    "a==b.jsonl",
    "'a'.jsonl",
]
few = settings(max_examples=200, deadline=None, derandomize=True)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=8))
@few
def test_quotes_keep_a_text(value):
    assert OverridesParser.create().parse_override(f"a.b={in_quotes(value)}").value() == value


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_any_name_is_taken(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(json.dumps({"text": "a"}))
    for path in (name, str(tmp_path / name)):
        cfg = compose_config(["data=local", f"data.tasks.x.path={path}"])
        assert cfg.data.tasks.x.path == path


def test_a_folder_is_taken(tmp_path):
    (tmp_path / "my data (1)").mkdir()
    assert compose_config(["data=local", f"data.root={tmp_path}/my data (1)"]).data.root == f"{tmp_path}/my data (1)"


def test_an_address_is_taken():
    url = "https://host/a.jsonl?b=c&d=e"
    assert compose_config(["data=local", f"data.tasks.x.path={url}"]).data.tasks.x.path == url


@pytest.mark.parametrize("name", ["train[:50%]", "gone (1).jsonl", "caf\u00e9=1.jsonl", "it's.jsonl"])
def test_what_is_not_there_is_told_how_to_be_quoted(name):
    with pytest.raises(MixalignError) as caught:
        compose_config(["data=local", f"data.tasks.x.split={name}"])
    start, _, written = str(caught.value).partition("around them: ")
    assert start.startswith(f"`data.tasks.x.split={name}` cannot be read: ")
    (override,) = shlex.split(written)
    assert compose_config(["data=local", override]).data.tasks.x.split == name


def test_lists_and_mappings_are_told_of_quotes_within():
    with pytest.raises(MixalignError, match="In lists and mappings, texts with characters other than"):
        compose_config(["data=local", "data.tasks.x={path: a=b.jsonl}"])


@pytest.mark.parametrize(
    "text",
    [
        "mixer=ama_r,ama_s",
        "+a.b=[1, 2]",
        "~a",
        "-m",
        "--config-dir=my dir (1)",
        "a.b='x y'",
        "a.b=",
        "a=${b}/c",
        "a.b=choice(1,2)",
        "hydra.sweep.subdir=${hydra.job.num}",
    ],
)
def test_what_can_be_read_stays(text):
    assert quoted(text) == text


def test_rows_of_such_a_file_are_read(tmp_path, monkeypatch):
    from mixalign.jobs.tasks import read_task, task_specs

    monkeypatch.chdir(tmp_path)
    lines = "".join(json.dumps({"prompt": f"{n}", "completion": "a"}) + "\n" for n in range(10))
    (tmp_path / "a=b (1).jsonl").write_text(lines + "{\n")
    data = compose_settings(["data=local", "data.tasks.x.path=a=b (1).jsonl", "data.on_bad_row=skip"]).data
    (task,) = task_specs(data).items()
    assert len(read_task(*task, data, "supervised")["train"]) == 9


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("data.tasks.a={path: x.jsonl}", "apart at its blanks. Put quotes around it: 'data.tasks.a={path: x.jsonl}'"),
        (
            "data=local data.tasks.a={path:x.jsonl, columns:{prompt: question}} steps=3",
            "'data.tasks.a={path:x.jsonl, columns:{prompt: question}}'",
        ),
        ("mixer.prior=[1, 2] steps=3", "'mixer.prior=[1, 2]'"),
        (
            "data.tasks.a=path:x.jsonl data.tasks.a=max_rows:3",
            "at its braces.* 'data.tasks.a={path:x.jsonl, max_rows:3}'",
        ),
    ],
)
def test_what_a_shell_took_apart_is_told_with_its_quotes(command, says):
    """The last one is what a shell makes of `data.tasks.a={path:x.jsonl,max_rows:3}`."""
    with pytest.raises(MixalignError, match=says.replace("{", r"\{").replace("[", r"\[")) as caught:
        compose_config(command.split())
    assert "took it apart" in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["data.tasks.a={path: x.jsonl}", "steps=3"],
        ["mixer=fixed", "mixer.weights=[1,2]"],
        ["data.tasks.a.path=s3://a/{b", "data.tasks.b.path=s3://c"],
        ["data=[hh,ultrafeedback]"],
    ],
)
def test_what_is_whole_goes_on(arguments):
    check_whole(arguments)
