"""Answers before and after training: by the models on disk, to prompts as the run rendered its own."""

import io
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixalign.errors import MixalignError
from mixalign.models.tiny import byte_tokenizer
from mixalign.runs.rendering import FILE
from mixalign.sharing.export import How
from mixalign.sharing.find import find_model
from mixalign.sharing.prompts import Renderer, read_prompts
from mixalign.sharing.voices import renderer_of, voices_of
from mixalign.verbs import chat, export, generate
from tests.tiny_runs import MODEL, QUIET, SHORT, train_from_overrides

NEW = 6


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("abc\n\nreverse this\n")
    return path


@pytest.fixture(scope="module")
def conversations(cache, tmp_path_factory):
    """A run by SFT whose rows are conversations, with an adapter."""
    folder = tmp_path_factory.mktemp("chat")
    row = {"prompt": [{"role": "user", "content": "?"}], "completion": [{"role": "assistant", "content": "!"}]}
    rows = [json.dumps(row | {"prompt": [{"role": "user", "content": f"{n}?"}]}) + "\n" for n in range(20)]
    (folder / "rows.jsonl").write_text("".join(rows))
    own = ["data=local", f"data.tasks.a.path={folder / 'rows.jsonl'}", "objective=sft", "mixer=uniform"]
    own += ["lora=default", "lora.r=2", "specialists.train=never", "optimizer.lr=0.5", "optimizer.warmup_steps=0"]
    train_from_overrides([*MODEL, *SHORT, *QUIET, f"cache_dir={cache}", *own], str(folder / "run"))
    return folder / "run"


@pytest.fixture(scope="module")
def mixed(cache, tmp_path_factory):
    """A run by SFT of one task of conversations and one of plain text."""
    folder = tmp_path_factory.mktemp("mixed")
    turns = (
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "!"}]} for n in range(20)
    )
    texts = ({"prompt": f"{n} + 1 = ", "completion": str(n + 1)} for n in range(20))
    for name, rows in (("talk", turns), ("sums", texts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = ["data=local", *(f"data.tasks.{name}.path={folder / name}.jsonl" for name in ("talk", "sums"))]
    own += ["objective=sft", "mixer=uniform", "specialists.train=never"]
    train_from_overrides([*MODEL, *SHORT, *QUIET, f"cache_dir={cache}", *own], str(folder / "run"))
    return folder / "run"


@torch.no_grad()
def greedy(model, tokenizer, text: str) -> str:
    """The first choice at every position, by the model's own forward pass."""
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    for _ in range(NEW):
        best = model(ids).logits[0, -1].argmax()
        if best == tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, best[None, None]], 1)
    return tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip()


@pytest.mark.long
def test_each_model_answers_each_prompt(finished, cache, prompts, tmp_path):
    generate.run(finished, prompts, tmp_path / "out.jsonl", specialists=True, max_new_tokens=NEW)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    tasks = ["helpful", "reverse", "compare"]
    assert [list(row) for row in rows] == [["prompt", "before", *(f"specialist {t}" for t in tasks), "after"]] * 2
    assert [row["prompt"] for row in rows] == ["abc", "reverse this"]
    start = json.loads((finished / "identity.json").read_text())["origin"]["start"]
    places = {"before": cache / "reference" / start / "model", "after": finished / "model"}
    tokenizer = AutoTokenizer.from_pretrained(finished / "model")
    for name, place in places.items():
        model = AutoModelForCausalLM.from_pretrained(place).eval()
        assert [row[name] for row in rows] == [greedy(model, tokenizer, row["prompt"]) for row in rows]


def test_answers_are_shown_one_under_the_other(finished, prompts, in_process):
    code, out, said = in_process("generate", finished, "--prompts", prompts, "--max-new-tokens", "3")
    assert code == 0, said
    assert out.count("[before]\n") == out.count("[after]\n") == 2
    assert max(map(len, out.splitlines())) <= 80
    assert all(letter.isprintable() or letter == "\n" for letter in out)


def test_a_plain_prompt_is_a_turn_where_the_rows_were_conversations(conversations, finished):
    renderer, plain = renderer_of(find_model(conversations)), renderer_of(find_model(finished))
    tokenizer = byte_tokenizer()
    asked = [{"role": "user", "content": "1?"}]
    wanted = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    assert tokenizer.decode(renderer.ids("1?")) == wanted
    assert np.array_equal(renderer.ids(asked), renderer.ids("1?"))
    assert plain.ids("1?").tolist() == tokenizer("1?")["input_ids"]
    assert tokenizer.eos_token_id in renderer.ends()


@pytest.mark.long
def test_prompts_of_a_mixed_run_are_rendered_as_those_of_the_task_that_is_named(mixed, prompts, in_process):
    found, tokenizer = find_model(mixed), byte_tokenizer()
    turn = tokenizer.apply_chat_template(
        [{"role": "user", "content": "abc"}], add_generation_prompt=True, tokenize=False
    )
    for task, wanted in ((None, turn), ("talk", turn), ("sums", f"{tokenizer.bos_token}abc")):
        assert tokenizer.decode(renderer_of(found, task).ids("abc")) == wanted
    assert "rows of `sums` did not" in renderer_of(found).note()
    assert renderer_of(found, "sums").note() == renderer_of(found, "talk").note() == ""
    with pytest.raises(MixalignError, match=r"--task sum: .* has no such task\. It has talk, sums"):
        renderer_of(found, "sum")
    code, _, said = in_process("generate", mixed, "--prompts", prompts, "--max-new-tokens", "1")
    assert (code, "note: Prompts go through the chat template" in said) == (0, True)
    code, _, said = in_process("generate", mixed, "--prompts", prompts, "--max-new-tokens", "1", "--task", "sums")
    assert (code, "note:" in said) == (0, False)


def test_variables_of_the_template_are_those_of_the_task_that_is_named(mixed, tmp_path):
    run = shutil.copytree(mixed, tmp_path / "run")
    config = OmegaConf.load(run / "config.yaml")
    config.data.tasks.more = {**config.data.tasks.talk, "chat_template_kwargs": {"enable_thinking": True}}
    OmegaConf.save(config, run / "config.yaml")
    identity = json.loads((run / "identity.json").read_text())
    identity["origin"]["chat"]["more"] = True
    (run / "identity.json").write_text(json.dumps(identity))
    found = find_model(run)
    assert renderer_of(found, "more").variables == {"enable_thinking": True}
    assert renderer_of(found, "talk").variables == renderer_of(found).variables == {}
    assert "`talk`, `more` have different `chat_template_kwargs`" in renderer_of(found).note()


def test_a_run_of_an_older_version_knows_one_way_for_all_tasks(mixed, tmp_path):
    run = shutil.copytree(mixed, tmp_path / "run")
    identity = json.loads((run / "identity.json").read_text())
    assert identity["origin"]["chat"] == {"talk": True, "sums": False}
    identity["origin"]["chat"] = True
    (run / "identity.json").write_text(json.dumps(identity))
    assert renderer_of(find_model(run)).is_chat
    assert renderer_of(find_model(run)).note() == ""


def test_an_exported_model_answers_by_itself_and_an_exported_adapter_beside_its_base(conversations, tmp_path, prompts):
    for how, names in ((How(), ["after"]), (How(adapter=True), ["before", "after"])):
        out = tmp_path / f"{how.adapter}"
        export.run(conversations, out, how)
        generate.run(out, prompts, tmp_path / "out.jsonl", max_new_tokens=2)
        rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [list(row) for row in rows] == [["prompt", *names]] * 2
        assert renderer_of(find_model(out)).is_chat
        assert renderer_of(find_model(out), "a").is_chat
        with pytest.raises(MixalignError, match=r"--task b: .* has no such task\. It has a\."):
            renderer_of(find_model(out), "b")
        (out / FILE).unlink()
        with pytest.raises(MixalignError, match=r"--task a: .* is of no run"):
            renderer_of(find_model(out), "a")


def test_a_run_with_an_adapter_starts_from_its_base(conversations):
    before, after = voices_of(find_model(conversations), specialists=False)
    ids = torch.arange(3, 13)[None]
    base = AutoModelForCausalLM.from_pretrained(conversations / "base")
    assert torch.allclose(before.build()(ids).logits, base(ids).logits, atol=1e-5)
    assert not torch.allclose(after.build()(ids).logits, base(ids).logits, atol=1e-3)


def test_chat_through_a_pipe(conversations, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("1?\nmore\n/what\n/reset\n1?\n/quit\nnever\n"))
    asked = []
    monkeypatch.setattr(Renderer, "ids", lambda self, one: asked.append(one) or np.array([3, 4, 5], np.int32))
    chat.run(conversations, max_new_tokens=NEW)
    out = capsys.readouterr().out
    assert out.startswith("before, after: loaded. Each line is a user's turn.")
    assert out.count("[before]\n") == out.count("[after]\n") == 3
    assert "There is no /what. Known: /reset, /quit." in out
    assert [len(one) for one in asked] == [1, 1, 3, 3, 1, 1], "each goes on with its own answers"
    assert asked[2][1]["role"] == "assistant"


def test_a_system_prompt_begins_each_conversation(conversations, finished, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("1?\n/reset\n1?\n"))
    asked = []
    monkeypatch.setattr(Renderer, "ids", lambda self, one: asked.append(one) or np.array([3, 4, 5], np.int32))
    chat.run(conversations, max_new_tokens=1, system="Be brief.")
    assert [[turn["role"] for turn in one] for one in asked] == [["system", "user"]] * 4
    assert asked[0][0]["content"] == "Be brief."
    with pytest.raises(MixalignError, match="--system: lines are texts"):
        chat.run(finished, system="Be brief.")


def test_a_conversation_that_is_too_long_is_said_and_goes_on(conversations, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{'x' * 2100}\nhi\n"))
    chat.run(conversations, max_new_tokens=NEW)
    out = " ".join(capsys.readouterr().out.split())
    assert "but the model has 2048 positions" in out
    assert out.count("[after]") == 1


def test_prompts_of_every_kind_are_read(tmp_path):
    turn = [{"role": "user", "content": "b"}]
    rows = [{"prompt": "a"}, {"prompt": turn, "chosen": "c"}, {"messages": [*turn, {"role": "assistant"}]}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_prompts(tmp_path / "p.jsonl") == ["a", turn, turn]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 1, is not valid JSON"),
        ('{"question": "a"}', "line 1, has question. It needs a `prompt`"),
        ("3", "line 1, is a int. It needs a `prompt`"),
        ("", "has no line"),
    ],
)
def test_prompts_that_cannot_be_read_are_named(tmp_path, line, says):
    (tmp_path / "p.jsonl").write_text(line + "\n")
    with pytest.raises(MixalignError) as caught:
        read_prompts(tmp_path / "p.jsonl")
    assert says in str(caught.value)


def test_models_that_are_gone_are_named(finished, cache, conversations, tmp_path):
    with pytest.raises(MixalignError, match=r"--specialists: .* is of no run"):
        voices_of(find_model(next((cache / "specialists").iterdir())), specialists=True)
    with pytest.raises(MixalignError, match="had no specialists"):
        voices_of(find_model(conversations), specialists=True)
    run = shutil.copytree(finished, tmp_path / "run")
    text = (run / "config.yaml").read_text().replace(str(cache), str(tmp_path / "gone"))
    (run / "config.yaml").write_text(text)
    with pytest.raises(MixalignError, match="a reference policy, is missing"):
        voices_of(find_model(run), specialists=False)
    with pytest.raises(MixalignError, match="--max-new-tokens"):
        generate.answering(find_model(finished), 0, 0.0, 0)
