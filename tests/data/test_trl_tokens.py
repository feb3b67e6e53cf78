"""The same rows give the same token ids and labels as in TRL 1.16, whose trainers prepare them here.

Every data set format that its trainers learn from is here, as text and as conversations, with and without tools.
"""

import json
import warnings
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mixalign.chat.templates import END_OF_TURN, template_text
from mixalign.data.read.formats import to_example
from mixalign.data.tokens.tokenise import tokenise
from mixalign.models.tiny import byte_tokenizer as tiny_tokenizer

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
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
CALLED = [turn("user", "1+2"), turn("assistant", "") | {"tool_calls": [CALL]}, turn("tool", "3")]
OFFERED = {"tools": json.dumps([TOOL])}
UNPAIRED = {
    "text": [
        {"prompt": "1+1=", "completion": "2", "label": True},
        {"prompt": "say </s>", "completion": "no</s>", "label": False},
        {"prompt": "p" * 40, "completion": "a", "label": True},
        {"prompt": "p" * 38, "completion": "long answer", "label": False},
    ],
    "conversations": [
        {"prompt": talk("hi"), "completion": [turn("assistant", "yo")], "label": True},
        {
            "prompt": [turn("system", "be"), *talk("a", "b", "c")],
            "completion": [turn("assistant", "d")],
            "label": False,
        },
    ],
    "tools": [{"prompt": talk("1+1"), "completion": [turn("assistant", "2")], "label": True, **OFFERED}] * 2,
    "pairs": PAIRS["explicit"][:4],
    "pairs of conversations": PAIRS["conversations"][:2],
}
SUPERVISED = {
    "completion": [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS["explicit"][:-1]],
    "conversations": [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS["conversations"]],
    "text": [{"text": "The sky is blue."}, {"text": "It ends.</s>"}, {"text": "t" * 60}],
    "messages": [{"messages": talk("hi", "yo")}, {"messages": talk("a", "b", "c", "d")}],
    "from and value": [  # TRL renames the keys and no roles
        {"conversations": [{"from": t["role"], "value": t["content"]} for t in talk(*texts)]}
        for texts in (("hi", "yo"), ("a", "b", "c", "d"))
    ],
    "tools": [{"prompt": talk("1+1"), "completion": [turn("assistant", "2")], **OFFERED}],
    "messages and tools": [{"messages": talk("1+1", "2"), **OFFERED}],
}
GIVEN = {  # token ids already; the first one is never learned, so TRL's labels agree from the second on
    "ids": [{"input_ids": [5, 6, 7]}, {"input_ids": [8, 9] * 30}],
    "labels": [{"input_ids": [5, 6, 7, 2], "labels": [-100, -100, 7, 2]}],
    "completion mask": [{"input_ids": [5, 6, 7, 2], "completion_mask": [0, 0, 1, 1]}],
    "assistant masks": [{"input_ids": [5, 6, 7, 2, 8], "assistant_masks": [0, 1, 1, 0, 1]}],
    "both masks": [
        {"input_ids": [5, 6, 7, 2, 8], "assistant_masks": [0, 1, 1, 0, 1], "completion_mask": [0, 0, 1, 1, 1]}
    ],
}
TOOLS = "{{ mood }}{% if tools %}{{ tools[0].function.name }}{% endif %}"
TOKENIZERS = {
    "bytes": lambda: byte_tokenizer(chat=CHAT),
    "BOS": lambda: byte_tokenizer(chat="{{ bos_token }}" + TOOLS + CHAT, adds="<s> $A"),
    "template without BOS": lambda: byte_tokenizer(chat=TOOLS + CHAT, adds="<s> $A"),
    "merges": lambda: byte_tokenizer(chat=CHAT, merges=(("=", "2"), ("i", "s"), (">", "y"))),
    "thought": lambda: byte_tokenizer(chat=CHAT.replace("<a>{% endif %}", "<a>(hm){% endif %}")),
}


def chat_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """One token a byte, with a chat template of ours whose end of turn is the EOS token."""
    tokenizer = tiny_tokenizer()
    end = END_OF_TURN[template]
    tokenizer.add_tokens(["<|im_start|>", "<|start_header_id|>", "<|end_header_id|>", end], special_tokens=True)
    tokenizer.eos_token, tokenizer.chat_template = end, template_text(template)
    return tokenizer


def prepared(kind: str, rows: list[dict], tokenizer, folder, max_length: int, **options):
    """The rows as a trainer of TRL prepares them; the model only has to exist."""
    import datasets
    import trl

    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model, reference = (LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)) for _ in range(2))
    config, trainer = getattr(trl, f"{kind}Config"), getattr(trl, f"{kind}Trainer")
    settings = {"output_dir": str(folder), "report_to": [], "use_cpu": True, "bf16": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = config(max_length=max_length, gradient_checkpointing=False, **settings, **options)
        made: dict = {"train_dataset": datasets.Dataset.from_list(rows), "processing_class": tokenizer}
        if kind != "SFT":
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
    ours, _ = tokenise(examples, tokenizer, task="t", form="preference", max_length=max_length, on_lost_text="warn")
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


def compare_supervised(rows, tokenizer, folder, max_length=MAX_LENGTH, assistant_only=False, **options) -> int:
    """Ids and labels; the label of the very first token is left out, since nothing predicts it.

    Of a conversation TRL learns every token, or the assistant's turns where it is asked to: `train_on` says the same.
    """
    talks = "messages" in rows[0] or "conversations" in rows[0]
    train_on = "all" if talks and not assistant_only else "assistant"
    examples = [to_example(row, {}) for row in rows]
    reading = {"max_length": max_length, "train_on": train_on, "on_lost_text": "warn"}
    ours, _ = tokenise(examples, tokenizer, task="t", form="supervised", **reading)
    options |= {"assistant_only_loss": True} if assistant_only else {}
    theirs = prepared("SFT", rows, tokenizer, folder, max_length, **options)
    assert len(ours) == len(theirs)
    for row, other in zip((ours[n] for n in range(len(ours))), theirs, strict=True):
        prompt, completion, learned = row["prompt"], row["completions"][0], row["supervised"][0]
        assert [*prompt, *completion] == other["input_ids"][:max_length]
        labels = [-100] * len(prompt) + [int(i) if on else -100 for i, on in zip(completion, learned, strict=True)]
        assert labels[1:] == other["labels"][1:max_length]
    return len(ours)


def compare_unpaired(rows, tokenizer, folder, max_length=MAX_LENGTH) -> int:
    """As for pairs: TRL cuts in its collator. Its batches need two rows for its estimate of the divergence."""
    examples = [to_example(row, {}) for row in rows]
    ours, _ = tokenise(examples, tokenizer, task="t", form="unpaired", max_length=max_length, on_lost_text="warn")
    theirs = prepared("KTO", rows, tokenizer, folder, max_length, per_device_train_batch_size=2)
    assert len(ours) == len(theirs)
    assert ours.columns["label"].tolist() == theirs["label"]
    for row, other in zip((ours[n] for n in range(len(ours))), theirs, strict=True):
        assert row["prompt"].tolist() == other["prompt_ids"]
        assert row["completions"][0].tolist() == other["completion_ids"][: max_length - len(other["prompt_ids"])]
    return len(ours)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("rows", PAIRS)
def test_preference_ids_are_those_of_trl(rows, tokenizer, tmp_path):
    assert compare_pairs(PAIRS[rows], TOKENIZERS[tokenizer](), tmp_path) > 0


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("rows", SUPERVISED)
def test_supervised_ids_and_labels_are_those_of_trl(rows, tokenizer, tmp_path):
    assert compare_supervised(SUPERVISED[rows], TOKENIZERS[tokenizer](), tmp_path) > 0


@pytest.mark.parametrize("tokenizer", ["bytes", "BOS", "merges"])
@pytest.mark.parametrize("rows", UNPAIRED)
def test_unpaired_ids_are_those_of_trl(rows, tokenizer, tmp_path):
    assert compare_unpaired(UNPAIRED[rows], TOKENIZERS[tokenizer](), tmp_path) > 0


@pytest.mark.parametrize("rows", GIVEN)
def test_ids_that_are_given_are_learned_as_by_trl(rows, tmp_path):
    options = {"completion_only_loss": True} if "completion_mask" in GIVEN[rows][0] else {}  # else it is not read
    assert compare_supervised(GIVEN[rows], TOKENIZERS["bytes"](), tmp_path, **options) == len(GIVEN[rows])


OURS = ["chatml", "qwen3", "llama3"]
ROOM = 4000  # bytes of a system prompt with tools


@pytest.mark.parametrize("template", OURS)
def test_our_templates_give_the_ids_of_trl(template, tmp_path):
    tokenizer = chat_tokenizer(template)
    for number, rows in enumerate([PAIRS["conversations"], PAIRS["implicit conversations"]]):
        assert compare_pairs(rows, tokenizer, tmp_path / f"pairs{number}", ROOM) == len(rows)
    rows = UNPAIRED["conversations"]
    assert compare_unpaired(rows, tokenizer, tmp_path / "unpaired", ROOM) == len(rows)
    for name in ("conversations", "messages", "from and value"):
        rows = SUPERVISED[name]
        assert compare_supervised(rows, tokenizer, tmp_path / name, ROOM) == len(rows)


@pytest.mark.parametrize("template", OURS)
def test_assistants_turns_are_those_of_trl(template, tmp_path):
    long = [turn("system", "be"), *talk("a", "b", "caf\u00e9", "\u4f60", "e", "<b>")]
    rows = [*SUPERVISED["messages"], {"messages": long}, {"messages": talk("a", "b", "c")}]
    assert compare_supervised(rows, chat_tokenizer(template), tmp_path / "long", ROOM, assistant_only=True) == 4
    # cut inside a turn, and before the last one
    tokenizer = chat_tokenizer(template)
    assert compare_supervised(rows, tokenizer, tmp_path / "cut", 70, assistant_only=True) > 0


@pytest.mark.parametrize("template", ["chatml", "qwen3"])
def test_tools_in_our_templates_give_the_ids_of_trl(template, tmp_path):
    tokenizer = chat_tokenizer(template)
    pairs = [{"prompt": talk("1+1"), "chosen": talk("", "2")[1:], "rejected": talk("", "3")[1:], **OFFERED}]
    assert compare_pairs(pairs, tokenizer, tmp_path / "pairs", ROOM) == 1
    assert compare_unpaired(UNPAIRED["tools"], tokenizer, tmp_path / "unpaired", ROOM) == 2
    answered = [{"prompt": CALLED, "completion": [turn("assistant", "It is 3.")], **OFFERED}]
    assert compare_supervised(answered, tokenizer, tmp_path / "completion", ROOM) == 1
    rows = [{"messages": [*CALLED, turn("assistant", "It is 3.")], **OFFERED}]
    for only in (False, True):
        assert compare_supervised(rows, tokenizer, tmp_path / f"only{only}", ROOM, assistant_only=only) == 1


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
