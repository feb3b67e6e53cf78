"""Token ids, masks and counts of rows that a reader can tokenise by hand: one token is one byte."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mixalign.data.tokens.tokenise import TokenCounts, tokenise
from mixalign.errors import MixalignError

PAD, BOS, EOS = 0, 1, 2
CHAT = (
    "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
# what was said before the last question is shortened, so that a beginning is rendered differently later
FORGETFUL = (
    "{% for m in messages %}<{{ m.role[0] }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content if "
    "loop.last else m.content[0] }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{{ eos_token "
    "}}{% endif %}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)


def byte_tokenizer(*, chat: str | None = None, adds: str = "", merges: tuple = ()) -> PreTrainedTokenizerFast:
    """One token a byte, after <pad>, <s> and </s>; `adds` is what is added to a text, such as "<s> $A"."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<pad>", "<s>", "</s>", *alphabet, *("".join(pair) for pair in merges)]
    model = models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=list(merges))
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in words[:3]])
    if adds:
        specials = [("<s>", BOS), ("</s>", EOS)]
        tokenizer.post_processor = processors.TemplateProcessing(single=adds, special_tokens=specials)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    fast.chat_template = chat
    return fast


def run(examples, tokenizer=None, form="supervised", max_length=100, **options):
    tokenizer = tokenizer or byte_tokenizer()
    return tokenise(examples, tokenizer, task="maths", form=form, max_length=max_length, **options)


def texts(row, tokenizer) -> list[str]:
    """The prompt and the completions of a row, decoded."""
    parts = [row["prompt"], *row["completions"]]
    return [tokenizer.decode(part) for part in parts]


def learned(row, tokenizer, completion=0) -> str:
    """The supervised tokens of a completion, decoded."""
    return tokenizer.decode(row["completions"][completion][row["supervised"][completion]])


PAIR = {"prompt": "1+1=", "chosen": "2", "rejected": "33"}


def test_a_preference_row():
    tokenizer = byte_tokenizer()
    dataset, counts = run([PAIR], tokenizer, "preference", source="test")
    row = dataset[0]
    assert texts(row, tokenizer) == ["1+1=", "2</s>", "33</s>"]
    assert [len(part) for part in (row["prompt"], *row["completions"])] == [4, 2, 3]
    assert all(mark.all() for mark in row["supervised"])
    assert dataset.num_completions == 2
    # 4 + 2 + 3 tokens, of which the completions' 2 + 3 are learned
    assert counts == TokenCounts("maths", 1, 1, 0, 0, 0, 0, tokens=9, supervised_tokens=5)


def test_a_preference_row_may_be_supervised():
    dataset, counts = run([PAIR, {"prompt": "a", "completion": "b"}])
    assert texts(dataset[0], byte_tokenizer()) == ["1+1=", "2</s>"]
    assert dataset.num_completions == 1
    assert counts.tokens == 4 + 2 + 1 + 2


def test_eos_is_appended_once():
    dataset, _ = run([{"prompt": "a", "completion": "b</s>"}, {"prompt": "a", "completion": "b"}])
    assert dataset[0]["completions"][0].tolist() == dataset[1]["completions"][0].tolist()
    assert dataset[0]["completions"][0][-1] == EOS
    assert dataset[0]["row_id"] == dataset[1]["row_id"]


@pytest.mark.parametrize("adds", ["<s> $A", "<s> $A </s>"])
@pytest.mark.parametrize("prompt", ["a", "<s>a"])
def test_bos_and_eos_come_once(adds, prompt):
    dataset, counts = run([{"prompt": prompt, "completion": "b"}], byte_tokenizer(adds=adds))
    row = dataset[0]
    a, b = (byte_tokenizer().convert_tokens_to_ids(letter) for letter in "ab")
    assert row["prompt"].tolist() == [BOS, a]
    assert row["completions"][0].tolist() == [b, EOS]
    assert counts.prefix_mismatch == 0


def test_without_a_prompt_the_first_token_is_not_learned():
    tokenizer = byte_tokenizer()
    dataset, counts = run([{"prompt": "", "completion": "abc"}], tokenizer)
    assert texts(dataset[0], tokenizer) == ["", "abc</s>"]
    assert learned(dataset[0], tokenizer) == "bc</s>"
    assert counts.supervised_tokens == 3
    # BOS is something to predict the first token from
    tokenizer = byte_tokenizer(adds="<s> $A")
    dataset, _ = run([{"prompt": "", "completion": "abc"}], tokenizer)
    assert texts(dataset[0], tokenizer) == ["<s>", "abc</s>"]
    assert learned(dataset[0], tokenizer) == "abc</s>"


def test_tokens_that_merge_over_the_boundary_belong_to_the_completion():
    tokenizer = byte_tokenizer(merges=(("=", "2"),))
    dataset, counts = run([PAIR], tokenizer, "preference")
    # "=2" is one token, so the chosen side parts after "1+1", and the rejected side is cut there too
    assert texts(dataset[0], tokenizer) == ["1+1", "=2</s>", "=33</s>"]
    assert [len(part) for part in dataset[0]["completions"]] == [2, 4]
    assert counts.prefix_mismatch == 1


def test_truncation_keeps_the_start():
    rows = [{"prompt": "abc", "completion": "defgh"}, {"prompt": "abc", "completion": "d"}]
    dataset, counts = run(rows, max_length=5)
    # 3 tokens of the prompt leave 2 for the completion; "d</s>" just fits
    assert texts(dataset[0], byte_tokenizer()) == ["abc", "de"]
    assert texts(dataset[1], byte_tokenizer()) == ["abc", "d</s>"]
    assert (counts.truncated, counts.kept, counts.tokens) == (1, 2, 10)


def test_prompts_that_fill_max_length_are_dropped():
    rows = [{"prompt": "a" * n, "completion": "b"} for n in (3, 4, 5, 6)]
    dataset, counts = run(rows, max_length=5)
    assert (counts.rows, counts.kept, counts.dropped_long_prompt, counts.truncated) == (4, 2, 2, 1)
    assert [len(dataset[n]["prompt"]) for n in range(2)] == [3, 4]


def test_rows_without_a_supervised_token_are_dropped():
    rows = [{"messages": [{"role": "user", "content": "hi"}]}, {"prompt": "a", "completion": "b"}]
    _, counts = run(rows, byte_tokenizer(chat=CHAT))
    assert (counts.rows, counts.kept, counts.dropped_unsupervised) == (2, 1, 1)


USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}
AGAIN, MORE = {"role": "user", "content": "ok"}, {"role": "assistant", "content": "no"}


def test_conversations_are_rendered_by_the_template():
    tokenizer = byte_tokenizer(chat="{{ bos_token }}" + CHAT, adds="<s> $A")
    rows = [{"prompt": [USER], "chosen": [ANSWER], "rejected": [MORE]}]
    dataset, _ = run(rows, tokenizer, "preference")
    # one BOS and no second EOS, although the tokenizer adds BOS to standard text
    assert texts(dataset[0], tokenizer) == ["<s><u>hi</s><a>", "yo</s>", "no</s>"]
    dataset, _ = run(rows, tokenizer)
    assert texts(dataset[0], tokenizer) == ["<s><u>hi</s><a>", "yo</s>"]


def test_only_the_turns_of_the_assistant_are_learned():
    tokenizer = byte_tokenizer(chat=CHAT)
    dataset, counts = run([{"messages": [USER, ANSWER, AGAIN, MORE]}], tokenizer)
    assert texts(dataset[0], tokenizer) == ["<u>hi</s><a>", "yo</s><u>ok</s><a>no</s>"]
    assert learned(dataset[0], tokenizer) == "yo</s>no</s>"
    # "yo", "no" and two EOS
    assert counts.supervised_tokens == 6


def test_a_conversation_that_begins_with_the_assistant():
    tokenizer = byte_tokenizer(chat=CHAT)
    dataset, _ = run([{"messages": [ANSWER, AGAIN, MORE]}], tokenizer)
    assert texts(dataset[0], tokenizer) == ["<a>", "yo</s><u>ok</s><a>no</s>"]
    assert learned(dataset[0], tokenizer) == "yo</s>no</s>"


def test_a_generation_prompt_may_end_in_what_the_answer_lacks():
    thinking = CHAT.replace("<a>{% endif %}", "<a>(thought){% endif %}")
    dataset, counts = run([{"messages": [USER, ANSWER]}], tokenizer := byte_tokenizer(chat=thinking))
    assert texts(dataset[0], tokenizer) == ["<u>hi</s><a>", "yo</s>"]
    assert counts.prefix_mismatch == 1


def test_generation_marks_where_beginnings_change():
    tokenizer = byte_tokenizer(chat=FORGETFUL)
    talk = [{"messages": [USER, ANSWER, AGAIN, MORE]}]
    with pytest.raises(
        MixalignError, match=r"row 1: the chat template leaves out 'yo' .*turn 2, assistant.*data\.on_lost"
    ):
        run(talk, tokenizer)
    dataset, _ = run(talk, tokenizer, on_lost_text="warn")
    assert texts(dataset[0], tokenizer) == ["<u>hi</s><a>", "y</s><u>ok</s><a>no</s>"]
    assert learned(dataset[0], tokenizer) == "y</s>no</s>"
    unmarked = FORGETFUL.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    with pytest.raises(MixalignError, match=r"Task `maths` \(train\): the chat template.*row 1 .*generation"):
        run([{"messages": [USER, ANSWER, AGAIN, MORE]}], byte_tokenizer(chat=unmarked))
    # a single answer is not changed by anything that follows
    assert learned(run([{"messages": [USER, ANSWER]}], byte_tokenizer(chat=unmarked))[0][0], tokenizer) == "yo</s>"


def test_variables_and_tools_reach_the_template():
    chat = "{{ mood }}{{ tone }}{{ tools[0].name if tools }}" + CHAT
    rows = [
        {"prompt": [USER], "completion": [ANSWER], "chat_template_kwargs": {"mood": "sad"}},
        {"prompt": [USER], "completion": [ANSWER], "tools": [{"name": "find"}]},
    ]
    tokenizer = byte_tokenizer(chat=chat)
    dataset, _ = run(rows, tokenizer, chat_template_kwargs={"mood": "calm", "tone": "!"})
    # a row's own variables win over the task's
    assert texts(dataset[0], tokenizer)[0] == "sad!<u>hi</s><a>"
    assert texts(dataset[1], tokenizer)[0] == "calm!find<u>hi</s><a>"


def test_many_rows_keep_their_order():
    rows = [{"prompt": f"{n}=", "completion": "x" * (n % 7 + 1)} for n in range(2500)]
    dataset, counts = run(rows)
    assert counts.rows == counts.kept == len(dataset) == 2500
    for n in (0, 1023, 1024, 2499):
        assert texts(dataset[n], byte_tokenizer()) == [f"{n}=", "x" * (n % 7 + 1) + "</s>"]
    assert counts.tokens == dataset.length_NS.sum() == len(dataset.ids_T)
    assert counts.supervised_tokens == dataset.num_tokens_NS.sum()
    assert dataset.ids_T.dtype == np.int32


ROW_ID = """
import sys; sys.path.insert(0, {folder!r})
from test_tokenise import PAIR, run
print(run([PAIR], None, "preference")[0].row_id_N[0])
"""


@pytest.mark.long
def test_row_ids_name_the_content():
    def row_id(row, form="preference", **options):
        return int(run([row], None, form, **options)[0].row_id_N[0])

    ids = [
        row_id(PAIR),
        row_id({**PAIR, "chosen": "3", "rejected": "32"}),
        row_id({**PAIR, "prompt": "1+1", "chosen": "=2", "rejected": "=33"}),  # the same ids, cut elsewhere
        row_id(PAIR, "supervised"),
        row_id(PAIR, max_length=6),
    ]
    assert len(set(ids)) == 5
    assert all(0 <= one < 2**63 for one in ids)
    script = ROW_ID.format(folder=str(__file__).rpartition("/")[0])
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=200)
    assert int(other.stdout) == ids[0]


def test_the_mask_is_part_of_the_row_id():
    tokenizer, mute = byte_tokenizer(chat=CHAT), byte_tokenizer(chat=CHAT)
    one, _ = run([{"messages": [USER, ANSWER, AGAIN, MORE]}], tokenizer)
    two, _ = run([{"prompt": [USER], "completion": [ANSWER, AGAIN, MORE]}], mute)
    assert one.ids_T.tolist() == two.ids_T.tolist()
    assert one.row_id_N[0] != two.row_id_N[0]


def test_errors_name_the_task_and_the_cure():
    plain = {"prompt": "a", "completion": "b"}
    with pytest.raises(MixalignError, match=r"Task `maths` \(train\): row 1 has no `chosen`.*objective=sft"):
        run([plain], None, "preference")
    with pytest.raises(MixalignError, match=r"row 2 is a conversation, but the tokenizer has no chat template"):
        run([plain, {"messages": [USER, ANSWER]}])
    with pytest.raises(MixalignError, match=r"Task `maths` \(test\) has no rows"):
        run([], source="test")
    tokenizer = byte_tokenizer(chat="{{ raise_exception('no such role') }}")
    with pytest.raises(MixalignError, match=r"refuses row 1: no such role"):
        run([{"messages": [USER, ANSWER]}], tokenizer)
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(MixalignError, match=r"the tokenizer has no EOS token"):
        run([plain], tokenizer)


def test_when_no_row_is_left_the_lengths_are_told():
    rows = [{"prompt": "a" * n, "completion": "b"} for n in (6, 9)]
    message = r"`maths` \(train\): none of its 2 rows is left\. 2 have .*max_length=5.*shortest.* 6 .*longest 9"
    with pytest.raises(MixalignError, match=message):
        run(rows, max_length=5)


ONE_BYTE = byte_tokenizer(adds="<s> $A")


@given(st.text(max_size=12), st.text(min_size=1, max_size=12), st.integers(2, 60))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_text_comes_back_up_to_its_length(prompt, completion, max_length):
    """Or, where its prompt leaves no room for an answer, it is dropped and said."""
    whole = f"<s>{prompt}{completion}</s>"
    ids = [BOS, *ONE_BYTE(f"{prompt}{completion}", add_special_tokens=False)["input_ids"], EOS]
    cut = 1 + len(prompt.encode())
    if cut >= max_length:
        with pytest.raises(MixalignError, match="none of its 1 rows is left"):
            run([{"prompt": prompt, "completion": completion}], ONE_BYTE, max_length=max_length)
        return
    dataset, counts = run([{"prompt": prompt, "completion": completion}], ONE_BYTE, max_length=max_length)
    row = dataset[0]
    assert [*row["prompt"], *row["completions"][0]] == ids[:max_length]
    assert len(row["prompt"]) == cut
    assert counts.truncated == (len(ids) > max_length)
    if not counts.truncated:
        assert "".join(texts(row, ONE_BYTE)) == whole
