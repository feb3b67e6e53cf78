"""The tiny random Llama and its byte tokenizer."""

import pytest
import torch

from mixalign.chat.templates import template_text
from mixalign.models.fingerprint import weights_fingerprint
from mixalign.models.tiny import TinyLlama, byte_tokenizer

SMALL = TinyLlama(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32)
TEXTS = [
    "",
    " ",
    "plain",
    "two  spaces\tand\n\nlines\r\n",
    "caf\u00e9 \u4f60\u597d \U0001f642 \u200d\u0000\x7f",
    "\u0130 '' \" ,.!",
]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives(text):
    tokenizer = byte_tokenizer()
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == 1
    assert len(ids) == 1 + len(text.encode())  # one token a byte, and one BOS
    assert ids.count(1) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text


def test_every_character_survives():
    tokenizer = byte_tokenizer()
    points = [*range(0x3000), *range(0xD7F0, 0xD800), *range(0xE000, 0xE010), 0xFFFD, 0x1F642, 0x10FFFF]
    text = "".join(map(chr, points))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert max(ids) < len(tokenizer) == 259


def test_special_tokens_are_one_token_each():
    tokenizer = byte_tokenizer()
    assert [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id] == [0, 1, 2]
    assert tokenizer("a</s>", add_special_tokens=False)["input_ids"] == [tokenizer("a")["input_ids"][1], 2]


def test_the_chat_template_marks_what_the_assistant_says():
    tokenizer = byte_tokenizer()
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yo"},
        {"role": "user", "content": "and"},
        {"role": "assistant", "content": "so"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "<s><|system|>S<|user|>hi<|assistant|>yo</s><|user|>and<|assistant|>so</s>"
    asked = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert text.startswith(asked)
    assert asked.endswith("<|assistant|>")
    made = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    learned = [i for i, on in zip(made["input_ids"], made["assistant_masks"], strict=True) if on]
    assert tokenizer.decode(learned) == "yo</s>so</s>"
    assert made["input_ids"].count(tokenizer.bos_token_id) == 1


def test_every_build_has_the_same_weights_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    first = SMALL.build()
    assert torch.rand(3).equal(wanted)
    torch.manual_seed(6)
    again, other = SMALL.build(), TinyLlama(**{**SMALL.__dict__, "seed": 1}).build()
    assert all(a.equal(b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not first.lm_head.weight.equal(other.lm_head.weight)


def test_the_shape_is_the_one_asked_for():
    model = SMALL.build()
    assert model.config.vocab_size == 264  # 259 entries, rounded up to a multiple of 8
    assert model.get_input_embeddings().weight.shape == (264, 16)
    assert 100_000 < sum(p.numel() for p in TinyLlama().build().parameters()) < 160_000


def test_another_tokenizer_sets_the_vocabulary(tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.save(str(path))
    source = TinyLlama(**{**SMALL.__dict__, "tokenizer_file": str(path)})
    assert source.tokenizer()("caf\u00e9")["input_ids"] == tokenizer("caf\u00e9")["input_ids"]
    assert source.build().config.vocab_size == 264


def test_a_chat_template_goes_before_that_of_the_byte_tokenizer():
    assert TinyLlama().tokenizer().chat_template == byte_tokenizer().chat_template
    assert TinyLlama(chat_template="chatml").tokenizer().chat_template == template_text("chatml")
    one, other = TinyLlama(hidden_size=16, num_heads=2), TinyLlama(hidden_size=16, num_heads=2, chat_template="chatml")
    assert weights_fingerprint(one.build()) == weights_fingerprint(other.build())


def test_a_tokenizer_file_gets_a_chat_template(tmp_path):
    byte_tokenizer().backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    file = str(tmp_path / "tokenizer.json")
    assert TinyLlama(tokenizer_file=file).tokenizer().chat_template is None
    assert TinyLlama(tokenizer_file=file, chat_template="llama3").tokenizer().chat_template == template_text("llama3")
