"""The same rows give the same token ids as in TRL 1.16, whose trainers prepare them here."""

import json
import warnings
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mixalign.data.read.formats import to_example
from mixalign.data.tokens.tokenise import tokenise

from .tokens.test_tokenise import CHAT, byte_tokenizer

pytest.importorskip("trl", reason="needs the extra `trl`")

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
MAX_LENGTH = 40
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}}


def turn(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def talk(*contents: str) -> list[dict]:
    return [turn(("user", "assistant")[n % 2], content) for n, content in enumerate(contents)]


PAIRS = {
    "explicit": [
        {"prompt": "1+1=", "chosen": "2", "rejected": "3"},
        {"prompt": "say </s>", "chosen": "yes</s>", "rejected": "no"},
        {"prompt": "caf\u00e9 ", "chosen": "\u4f60\u597d", "rejected": "\U0001f642"},
        # shared beginnings of the two completions stay with the completions
        {"prompt": "sky?", "chosen": " It is blue.", "rejected": " It is green."},
        # the prompt fills max_length with 40 tokens, and nearly does with 39
        {"prompt": "p" * 40, "chosen": "a", "rejected": "b"},
        {"prompt": "p" * 38, "chosen": "long answer", "rejected": "b"},
        {"prompt": "", "chosen": "ab", "rejected": "cd"},
    ],
    "implicit": [
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        {"chosen": "1+1=2", "rejected": "1+1=3"},
        {"chosen": "same", "rejected": "same and more"},
    ],
    "conversations": [
        {"prompt": talk("hi"), "chosen": [turn("assistant", "yo")], "rejected": [turn("assistant", "no")]},
        {
            "prompt": [turn("system", "be"), *talk("a", "b", "c")],
            "chosen": [turn("assistant", "yes")],
            "rejected": [turn("assistant", "yet")],
        },
        {"prompt": talk("p" * 40), "chosen": [turn("assistant", "a")], "rejected": [turn("assistant", "b")]},
    ],
    "implicit conversations": [
        {"chosen": talk("hi", "yo"), "rejected": talk("hi", "no")},
        {"chosen": talk("hi", "yo", "so", "x"), "rejected": talk("hi", "yo", "so", "y")},
    ],
    "tools": [
        {
            "prompt": talk("1+1"),
            "chosen": [turn("assistant", "2")],
            "rejected": [turn("assistant", "3")],
            "tools": json.dumps([TOOL]),
            "chat_template_kwargs": {"mood": "calm"},
        },
    ],
}
SUPERVISED = {
    "completion": [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS["explicit"][:-1]],
    "conversations": [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS["conversations"]],
    "text": [{"text": "The sky is blue."}, {"text": "It ends.</s>"}, {"text": "t" * 60}],
    "messages": [{"messages": talk("hi", "yo")}, {"messages": talk("a", "b", "c", "d")}],
}
TOOLS = "{{ mood }}{% if tools %}{{ tools[0].function.name }}{% endif %}"
TOKENIZERS = {
    "bytes": lambda: byte_tokenizer(chat=CHAT),
    "BOS": lambda: byte_tokenizer(chat="{{ bos_token }}" + TOOLS + CHAT, adds="<s> $A"),
    "template without BOS": lambda: byte_tokenizer(chat=TOOLS + CHAT, adds="<s> $A"),
    "merges": lambda: byte_tokenizer(chat=CHAT, merges=(("=", "2"), ("i", "s"), (">", "y"))),
    "thought": lambda: byte_tokenizer(chat=CHAT.replace("<a>{% endif %}", "<a>(hm){% endif %}")),
}


def prepared(kind: str, rows: list[dict], tokenizer, folder, max_length: int):
    """The rows as a trainer of TRL prepares them; the model only has to exist."""
    import datasets
    import trl

    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model, reference = (LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)) for _ in range(2))
    config, trainer = getattr(trl, f"{kind}Config"), getattr(trl, f"{kind}Trainer")
    settings = {"output_dir": str(folder), "report_to": [], "use_cpu": True, "bf16": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = config(max_length=max_length, gradient_checkpointing=False, **settings)
        made: dict = {"train_dataset": datasets.Dataset.from_list(rows), "processing_class": tokenizer}
        if kind == "DPO":
            made["ref_model"] = reference
        return trainer(model=model, args=args, **made).train_dataset


@pytest.fixture(autouse=True)
def _no_network_and_no_bars(monkeypatch):
    import datasets

    datasets.disable_progress_bars()
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")


def compare_pairs(rows, tokenizer, folder, max_length=MAX_LENGTH) -> int:
    """TRL truncates pairs in its collator, so its ids are cut here as the collator does."""
    examples = [to_example(row, {}) for row in rows]
    ours, _ = tokenise(examples, tokenizer, task="t", form="preference", max_length=max_length)
    theirs = prepared("DPO", rows, tokenizer, folder, max_length)
    assert len(ours) == len(theirs)
    for row, other in zip((ours[n] for n in range(len(ours))), theirs, strict=True):
        assert row["prompt"].tolist() == other["prompt_ids"]
        room = max_length - len(other["prompt_ids"])
        assert [ids.tolist() for ids in row["completions"]] == [
            other["chosen_ids"][:room],
            other["rejected_ids"][:room],
        ]
        assert all(mark[1:].all() for mark in row["supervised"])
    return len(ours)


def compare_supervised(rows, tokenizer, folder, max_length=MAX_LENGTH) -> int:
    """Ids and labels; the label of the very first token is left out, since nothing predicts it."""
    examples = [to_example(row, {}) for row in rows]
    ours, _ = tokenise(examples, tokenizer, task="t", form="supervised", max_length=max_length)
    theirs = prepared("SFT", rows, tokenizer, folder, max_length)
    assert len(ours) == len(theirs)
    for row, other in zip((ours[n] for n in range(len(ours))), theirs, strict=True):
        prompt, completion, learned = row["prompt"], row["completions"][0], row["supervised"][0]
        assert [*prompt, *completion] == other["input_ids"]
        if "messages" in rows[0]:
            continue  # TRL learns whole conversations, we the assistant's turns
        labels = [-100] * len(prompt) + [int(i) if on else -100 for i, on in zip(completion, learned, strict=True)]
        assert labels[1:] == other["labels"][1:]
    return len(ours)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("rows", PAIRS)
def test_preference_ids_are_those_of_trl(rows, tokenizer, tmp_path):
    assert compare_pairs(PAIRS[rows], TOKENIZERS[tokenizer](), tmp_path) > 0


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("rows", SUPERVISED)
def test_supervised_ids_and_labels_are_those_of_trl(rows, tokenizer, tmp_path):
    assert compare_supervised(SUPERVISED[rows], TOKENIZERS[tokenizer](), tmp_path) > 0


def test_long_prompts_are_dropped_as_in_trl(tmp_path):
    # of seven rows the one with 40 prompt tokens goes; with BOS the prompt of 38 has 39 and stays
    assert compare_pairs(PAIRS["explicit"], TOKENIZERS["bytes"](), tmp_path) == 6
    assert compare_pairs(PAIRS["explicit"], TOKENIZERS["BOS"](), tmp_path) == 6


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the data folder beside the repository")
@pytest.mark.parametrize("task", ["preference/code", "preference/harmless", "sft/coding", "sft/safety"])
def test_real_rows_have_the_ids_of_trl(task, tmp_path):
    path = SHARED / "tokenizer-4k.json"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token="</s>", pad_token="<pad>")
    lines = (SHARED / "mini" / task / "train.jsonl").read_text(encoding="utf-8").splitlines()
    compare = compare_pairs if task.startswith("preference") else compare_supervised
    assert compare([json.loads(line) for line in lines], tokenizer, tmp_path, max_length=128) > 32
