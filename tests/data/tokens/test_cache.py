"""The token cache: a hit gives what tokenising gave, without the tokenizer; what changes ids changes the entry."""

import json
import logging
import pickle
import subprocess
import sys
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mixalign.data.dataset import ARRAYS
from mixalign.data.tokens import cache as module
from mixalign.data.tokens.cache import TokenCache
from mixalign.errors import MixalignError
from mixalign.models.tiny import CHAT_TEMPLATE, byte_tokenizer

PAIR = {"prompt": "1+1=", "chosen": "2", "rejected": "33"}
USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}
OTHER = {"role": "assistant", "content": "no"}
ROWS = [PAIR, {"prompt": "2+2=", "chosen": "4", "rejected": "5"}, {"prompt": "x" * 60, "chosen": "a", "rejected": "b"}]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Of a cache that takes tables of any size."""
    monkeypatch.setattr(module, "SMALL", 1)
    return tmp_path / "tokens"


def make(folder, examples=ROWS, tokenizer=None, **changes):
    settings = {"task": "maths", "form": "preference", "max_length": 50} | changes
    return TokenCache(tokenizer or byte_tokenizer(), folder).tokenise(examples, **settings)


def assert_same(found, wanted):
    assert found[1] == wanted[1]
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(found[0], name), getattr(wanted[0], name))


def test_a_hit_gives_the_same_and_does_not_call_the_tokenizer(folder, monkeypatch):
    plain = make(None)
    assert not folder.exists()
    assert_same(make(folder), plain)

    def refuse(self, *texts, **options):
        raise AssertionError("the tokenizer was called")

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", refuse)
    found = make(folder)
    assert_same(found, plain)
    assert found[1].dropped_long_prompt == 1
    with pytest.raises(ValueError, match="read-only"):
        found[0].ids_T[0] = 0
    with pytest.raises(AssertionError, match="was called"):
        make(None)


def test_tasks_with_the_same_rows_share_an_entry_and_keep_their_names(folder):
    table, counts = make(folder)
    other, other_counts = make(folder, task="sums", source="test")
    assert (table.task, other.task) == ("maths", "sums")
    assert other_counts == replace(counts, task="sums")
    assert len(list(folder.iterdir())) == 1


def with_attribute(name, value):
    tokenizer = byte_tokenizer()
    setattr(tokenizer, name, value)
    return {"tokenizer": tokenizer}


def with_backend(**parts):
    """Other parts in the JSON of the tokenizer's backend."""
    tokenizer = byte_tokenizer()
    core = json.loads(tokenizer.backend_tokenizer.to_str()) | parts
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(core))
    return {"tokenizer": tokenizer}


def with_merge():
    model = json.loads(byte_tokenizer().backend_tokenizer.to_str())["model"]
    model["vocab"]["=2"] = len(model["vocab"])
    return with_backend(model=model | {"merges": [["=", "2"]]})


def with_added_token():
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["1+1"])
    return {"tokenizer": tokenizer}


def of_another_class():
    tokenizer = byte_tokenizer()
    tokenizer.__class__ = type("Other", (PreTrainedTokenizerFast,), {"__module__": "transformers.other"})
    return {"tokenizer": tokenizer}


def with_tools(*keys):
    tool = dict.fromkeys(keys, "x")
    return {"examples": [{"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER], "tools": [tool]}]}


MISSES = {
    "text of a row": lambda: {"examples": [PAIR | {"rejected": "34"}, *ROWS[1:]]},
    "order of rows": lambda: {"examples": ROWS[::-1]},
    "number of rows": lambda: {"examples": ROWS[:2]},
    "text moved between columns": lambda: {"examples": [{"prompt": "1+1", "chosen": "=2", "rejected": "=33"}]},
    "tools": lambda: with_tools("a", "b"),
    "order of keys in a tool": lambda: with_tools("b", "a"),
    "form": lambda: {"form": "supervised"},
    "train_on": lambda: {"form": "supervised", "train_on": "all"},
    "max_length": lambda: {"max_length": 49},
    "chat_template_kwargs": lambda: {"chat_template_kwargs": {"thinking": True}},
    "vocabulary": lambda: with_merge(),
    "normalizer": lambda: with_backend(normalizer={"type": "Lowercase"}),
    "post-processor": lambda: with_backend(post_processor=None),
    "EOS": lambda: with_attribute("eos_token", "<s>"),
    "chat template": lambda: with_attribute("chat_template", CHAT_TEMPLATE + " "),
    "no chat template": lambda: with_attribute("chat_template", None),
    "split_special_tokens": lambda: with_attribute("split_special_tokens", True),
    "added token": with_added_token,
    "class": of_another_class,
}


def test_everything_that_changes_ids_is_another_entry(folder):
    make(folder)
    for number, (what, change) in enumerate(MISSES.items(), 2):
        make(folder, **change())
        assert len(list(folder.iterdir())) == number, f"{what}: not in the fingerprint"


@pytest.mark.parametrize("name", ["jinja2", "tokenizers", "transformers"])
def test_another_version_of_a_library_is_another_entry(folder, monkeypatch, name):
    make(folder)
    monkeypatch.setattr(sys.modules[name], "__version__", "0.0")
    make(folder)
    assert len(list(folder.iterdir())) == 2


def test_another_version_of_our_code_is_another_entry(folder, monkeypatch):
    make(folder)
    monkeypatch.setattr(module, "VERSION", -1)
    make(folder)
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(("chat", "entries"), [("", 1), ("{{ strftime_now('%Y') }}", 2)])
def test_a_template_that_prints_the_day_is_of_that_day(folder, monkeypatch, chat, entries):
    for day in (1, 2):
        monkeypatch.setattr(module, "date", type("Date", (date,), {"today": lambda day=day: date(2026, 1, day)}))
        make(folder, **with_attribute("chat_template", chat + CHAT_TEMPLATE))
    assert len(list(folder.iterdir())) == entries


def used(tokenizer):
    tokenizer(["abc", "d"], padding=True, truncation=True, max_length=2)
    return tokenizer


def restrained(tokenizer):
    """As a tokenizer.json may say; our calls do not pad or truncate."""
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding()
    return tokenizer


@pytest.mark.parametrize("change", [used, restrained, lambda tokenizer: pickle.loads(pickle.dumps(tokenizer))])
def test_what_does_not_change_ids_is_the_same_entry(folder, change):
    make(folder)
    assert_same(make(folder, tokenizer=change(byte_tokenizer())), make(None))
    assert len(list(folder.iterdir())) == 1


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    whole = bytearray(path.read_bytes())
    whole[whole.index(b'"kept\\":') + 9] ^= 1  # a digit of the counts
    path.write_bytes(whole)


def replace_by_scores(path):
    from safetensors.numpy import save_file

    save_file({"row_id_N": np.zeros(3)}, path, metadata={"note": "{}"})


@pytest.mark.parametrize("damage", [halve, flip, replace_by_scores, lambda path: path.write_bytes(b"")])
def test_a_damaged_entry_is_made_again(folder, damage, caplog):
    wanted = make(None)
    make(folder)
    (entry,) = folder.iterdir()
    damage(entry)
    with caplog.at_level(logging.WARNING):
        assert_same(make(folder), wanted)
    assert f"{entry} is damaged" in caplog.text
    caplog.clear()
    assert_same(make(folder), wanted)
    assert not caplog.text


def test_a_write_that_was_interrupted_is_not_read(folder, monkeypatch):
    def half(arrays, part, metadata):
        part.write_bytes(b"half")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mixalign.data.mapped.save_file", half)
        with pytest.raises(OSError, match="no space"):
            make(folder)
    assert_same(make(folder), make(None))


def test_errors_are_raised_each_time_and_nothing_is_cached(folder):
    for _ in range(2):
        with pytest.raises(MixalignError, match=r"Task `maths` \(test\): none of its 3 rows is left"):
            make(folder, max_length=2, source="test")
    assert not folder.exists()


def test_small_tables_are_not_cached(tmp_path):
    make(tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()
    _, counts = make(tmp_path / "tokens", [PAIR] * module.SMALL)
    assert counts.rows == module.SMALL
    assert len(list((tmp_path / "tokens").iterdir())) == 1


def test_a_class_with_code_of_its_own_is_not_cached(folder):
    tokenizer = byte_tokenizer()
    tokenizer.__class__ = type("Own", (PreTrainedTokenizerFast,), {})
    assert_same(make(folder, tokenizer=tokenizer), make(None))
    assert not folder.exists()


def test_a_step_with_code_of_its_own_is_not_cached(folder):
    class Whole:
        def pre_tokenize(self, text):
            pass

    tokenizer = byte_tokenizer()
    bytewise = tokenizer.backend_tokenizer.pre_tokenizer
    steps = pre_tokenizers.Sequence([pre_tokenizers.PreTokenizer.custom(Whole()), bytewise])
    tokenizer.backend_tokenizer.pre_tokenizer = steps
    assert_same(make(folder, tokenizer=tokenizer), make(None))
    assert not folder.exists()


WRITER = """
import pickle, sys
from pathlib import Path
from mixalign.data.tokens import cache as token_cache
token_cache.SMALL = 1
tokenizer, rows, settings, folder = pickle.loads(Path(sys.argv[1]).read_bytes())
sys.stdin.readline()
print(token_cache.TokenCache(tokenizer, folder).tokenise(rows, **settings)[0].row_id_N.tolist())
"""


@pytest.mark.long
def test_processes_may_make_the_same_entry(folder, tmp_path):
    settings = {"task": "maths", "form": "preference", "max_length": 50}
    (tmp_path / "job").write_bytes(pickle.dumps((byte_tokenizer(), ROWS, settings, folder)))
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "job"], **options) for _ in range(2)]
    said = [writer.communicate("go\n", timeout=200)[0] for writer in writers]
    assert said == [f"{make(None)[0].row_id_N.tolist()}\n"] * 2
    assert len(list(folder.iterdir())) == 1


def test_another_process_may_make_the_entry_meanwhile(folder, monkeypatch):
    tokenise = module.tokenise

    def slow(*rows, **settings):
        monkeypatch.setattr(module, "tokenise", tokenise)
        early.append(make(folder))
        return tokenise(*rows, **settings)

    early: list = []
    monkeypatch.setattr(module, "tokenise", slow)
    late = make(folder)
    assert_same(late, early[0])
    assert len(list(folder.iterdir())) == 1
