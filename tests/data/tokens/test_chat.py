"""What is learned of conversations: exactly what the assistant says, and the marker that ends its turn."""

import re
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixalign.data.tokens.chat import Chat
from mixalign.errors import MixalignError

from .test_tokenise import byte_tokenizer, learned, run, texts

MARKERS = ["<|im_start|>", "<|im_end|>", "<|eot|>", "[INST]", "[/INST]", "<|user|>", "<|assistant|>", "<|system|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT_SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}" + CHATML
STRIPPING = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n\n{% endif %}"
)
INST = (  # no header before an answer, and a blank that belongs to it
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.role == 'system' %}[INST] {{ m.content }}[/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "<|im_end|>\n{% endgeneration %}{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# template: what it puts before and after an answer that is learned
STABLE = {
    CHATML: ("", "<|im_end|>\n"),
    DEFAULT_SYSTEM: ("", "<|im_end|>\n"),
    STRIPPING: ("", "<|eot|>"),
    INST: (" ", "</s>"),
    MARKED: ("", "<|im_end|>\n"),
}


def with_markers(chat, **attributes):
    tokenizer = byte_tokenizer(chat=chat)
    tokenizer.add_special_tokens({"additional_special_tokens": MARKERS})
    for name, value in attributes.items():
        setattr(tokenizer, name, value)
    return tokenizer


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


def talk(*contents, first="user"):
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [turn(roles[n % 2], content) for n, content in enumerate(contents)]


def learned_of(messages, chat, **options):
    tokenizer = with_markers(chat)
    dataset, _ = run([{"messages": messages}], tokenizer, max_length=100_000, **options)
    return learned(dataset[0], tokenizer)


WORDS = st.text("ab c\n.", min_size=1, max_size=12).map(str.strip).filter(bool)
TALKS = st.tuples(st.booleans(), st.booleans(), st.lists(WORDS, min_size=2, max_size=9))


@pytest.mark.parametrize("chat", STABLE, ids=["chatml", "default system", "stripping", "inst", "marked"])
@given(TALKS)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_learned_are_the_answers_and_what_ends_them(chat, drawn):
    """Whatever the texts are: short ones, the same ones again, parts of headers, an assistant that begins."""
    begins, has_system, contents = drawn
    messages = talk(*contents, first="assistant" if begins else "user")
    if has_system and not begins:
        messages.insert(0, turn("system", "Be brief."))
    before, after = STABLE[chat]
    answers = [m["content"] for m in messages if m["role"] == "assistant"]
    first = "" if messages[0]["role"] == "assistant" and before else before  # nothing was asked: no opening to follow
    wanted = "".join((first if n == 0 else before) + answer + after for n, answer in enumerate(answers))
    assert learned_of(messages, chat) == wanted


def test_a_long_conversation_takes_a_few_short_renderings(monkeypatch):
    messages = talk(*(f"text number {n} of many" for n in range(200)))
    sizes, render = [], Chat.render

    def counted(self, given, *rest, **options):
        sizes.append(len(given))
        return render(self, given, *rest, **options)

    monkeypatch.setattr(Chat, "render", counted)
    found = learned_of(messages, CHATML)
    assert found == "".join(f"text number {n} of many<|im_end|>\n" for n in range(1, 200, 2))
    assert sorted(sizes) == [1, 2, 200]  # what opens an answer, what closes it, and the whole


def test_answers_may_be_said_in_other_words_than_the_template_writes():
    """Where contents are not as they stand, beginnings are rendered: slower, and the same."""
    shouting = CHATML.replace("{{ m.content }}", "{{ m.content | upper }}")
    assert learned_of(talk("a", "yes", "b", "no"), shouting, on_lost_text="warn") == "YES<|im_end|>\nNO<|im_end|>\n"


def test_turns_of_weight_zero_are_not_learned():
    messages = [turn("user", "a"), turn("assistant", "yes", weight=0), turn("user", "b"), turn("assistant", "no")]
    assert learned_of(messages, CHATML) == learned_of(messages, MARKED) == "no<|im_end|>\n"
    messages[1]["weight"], messages[3]["weight"] = 1, 0
    assert learned_of(messages, CHATML) == learned_of(messages, MARKED) == "yes<|im_end|>\n"
    # the template does not see what is meant for us
    assert learned_of(messages, "{{ messages[-1].weight }}" + CHATML) == "yes<|im_end|>\n"


@pytest.mark.parametrize("chat", [CHATML, MARKED])
def test_train_on(chat):
    messages = talk("ask", "yes", "more", "no")
    assert learned_of(messages, chat, train_on="last") == "no<|im_end|>\n"
    # all but the first token, which nothing precedes
    whole = "user\nask<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
    assert learned_of(messages, chat, train_on="all").startswith(whole)
    rows = [{"prompt": messages[:1], "completion": messages[1:]}, {"prompt": "1+1=", "completion": "2"}]
    tokenizer = with_markers(chat)
    dataset, _ = run(rows, tokenizer, train_on="last", max_length=1000)
    assert [learned(row, tokenizer) for row in dataset] == ["no<|im_end|>\n", "2</s>"]
    dataset, _ = run(rows, tokenizer, train_on="all", max_length=1000)
    assert texts(dataset[1], tokenizer) == ["", "1+1=2</s>"]
    assert learned(dataset[1], tokenizer) == "+1=2</s>"


def test_train_on_is_for_answers_that_are_learned_as_they_stand():
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    with pytest.raises(MixalignError, match=r"`maths`.*`train_on` is last.*objective=sft"):
        run([pair], form="preference", train_on="last")
    with pytest.raises(MixalignError, match="`train_on` is 'first'"):
        run([pair], train_on="first")


def test_marks_win_over_what_a_turn_adds():
    only_last = MARKED.replace("m.role == 'assistant' %}{% generation", "loop.last %}{% generation")
    assert learned_of(talk("One?", "first", "Two?", "second"), only_last) == "second<|im_end|>\n"
    # the marks cannot be matched with the turns, some of which are not to be learned
    twice = MARKED.replace("{{ m.content }}<|im_end|>\n{% endgeneration %}", "x{% endgeneration %}{{ m.content }}")
    messages = [turn("user", "a"), turn("assistant", "yes"), *talk("b", "no")[0:1], turn("assistant", "no", weight=0)]
    split = twice.replace("x{% endgeneration %}", "x{% endgeneration %}{% generation %}y{% endgeneration %}")
    with pytest.raises(MixalignError, match=r"marks 4 parts of row 1 .*matched with its 2 turns"):
        learned_of(messages, split)


THOUGHTLESS = CHATML.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1].strip() }}")
TOOLS = CHATML.replace(
    "{{ m.content }}", "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}"
)
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
PARTS = CHATML.replace("{{ m.content }}", "{% for p in m.content %}{{ p.text }}{% endfor %}")
OPEN_ENDED = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LINES = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
DOUBLED = MARKED.replace("{% generation %}", "{% generation %}{{ m.content }} ")
LATE = MARKED.replace("{% generation %}{{ m.content }}", "{{ m.content }}{% generation %}")
EARLY = (
    "{% generation %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% endgeneration %}"
)
SYSTEM_LATE = (  # as in Mistral's version 3: the system prompt stands before the last turn of the user
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}{% if m.role == 'user' %}"
    "[INST]{% if loop.last and system %} {{ system }}\n\n{% endif %} {{ m.content }}[/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
ASKED = turn("user", "What is seven and one?")
WRONG = {
    "a thought is dropped": (
        THOUGHTLESS,
        [ASKED, turn("assistant", "<think>count on</think>\n\n8")],
        "<think>count on</",
    ),
    "a tool call is dropped": (
        CHATML,
        [ASKED, turn("assistant", "", tool_calls=[CALL])],
        "'weather' .tool call.*turn 2",
    ),
    "strings where parts are wanted": (PARTS, [ASKED, turn("assistant", "It is 8.")], "What is seven.*turn 1, user"),
    "no end of turn": (OPEN_ENDED, [ASKED, turn("assistant", "It is 8.")], "nothing ends turn 2"),
    "a line break as the end": (LINES, [ASKED, turn("assistant", "It is 8.")], "nothing ends turn 2"),
    "learned twice": (DOUBLED, [ASKED, turn("assistant", "It is 8 of course.")], "twice"),
    "not learned": (LATE, [ASKED, turn("assistant", "It is 8.")], "'It is 8.' .*is not learned"),
    "the user is learned": (EARLY, [ASKED, turn("assistant", "It is 8.")], "What is seven.*turn 1, user is learned"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("shape", ["messages", "completion", "pair"])
def test_what_a_template_loses_is_named(what, shape):
    chat, messages, message = WRONG[what]
    if shape != "messages" and "generation %}" in chat and what != "learned twice":
        pytest.skip("of answers everything after the prompt is learned, whatever is marked")
    row = {"messages": messages}
    if shape != "messages":
        prompt, answer = messages[:-1], messages[-1:]
        row = {"prompt": prompt, "completion": answer}
        if shape == "pair":
            row = {"prompt": prompt, "chosen": answer, "rejected": answer}
    form = "preference" if shape == "pair" else "supervised"
    with pytest.raises(MixalignError, match=rf"Task `maths` \(train\): row 1.*{message}.*model\.chat_template"):
        run([row, row], with_markers(chat), form, max_length=1000)


def test_special_tokens_that_are_split():
    with pytest.raises(MixalignError, match=r"'<\|im_end\|>', which ends turn 2, assistant, is learned as plain text"):
        run([{"messages": talk("a", "b")}], with_markers(CHATML, split_special_tokens=True))


def test_what_is_lost_may_be_let_through(caplog):
    row = {"messages": [ASKED, turn("assistant", "<think>count</think>8")]}
    dataset, _ = run([row] * 3, tokenizer := with_markers(THOUGHTLESS), on_lost_text="warn")
    assert learned(dataset[0], tokenizer) == "8<|im_end|>\n"
    (record,) = caplog.records
    assert re.search(r"`maths` \(train\): row 1: .*leaves out '<think>count</think>8'.* 2 more", record.getMessage())


SEARCH = {"function": {"name": "search", "arguments": {"query": "the weather in Rome today"}}}
FINE = {
    "a call repeats the question": [
        turn("user", "the weather in Rome today"),
        turn("assistant", "I look it up for you, in the place that knows it best of all.", tool_calls=[SEARCH]),
    ],
    "an answer repeats the question": [ASKED, turn("assistant", f"{ASKED['content']} It is 8.")],
    "an answer repeats itself": [ASKED, turn("assistant", "no no no no no no no no no no no no")],
    "a word of the header": [ASKED, turn("assistant", "assistant")],
    "three say the same": [turn(role, "Say the same thing.") for role in ("system", "user", "assistant")],
    "an empty system prompt": [turn("system", ""), ASKED, turn("assistant", "8")],
    "code": [ASKED, turn("assistant", "```python\nprint('a\\n')\n```")],
    "json": [ASKED, turn("assistant", '{"a": ["\u00e9", 1]}')],
}


@pytest.mark.parametrize("what", FINE)
def test_there_is_no_false_alarm(what):
    learned_of(FINE[what], TOOLS)
    if not any("tool_calls" in message for message in FINE[what]):
        learned_of(FINE[what], MARKED)


def test_tools_that_a_template_ignores_are_named():
    row = {"messages": [ASKED, turn("assistant", "8")], "tools": [{"function": {"name": "add"}}]}
    with pytest.raises(MixalignError, match=r"leaves out the tool 'add' \(column `tools`\)"):
        run([row], with_markers(CHATML))


def test_keys_of_turns_that_nobody_reads_are_named(caplog):
    row = {"messages": [ASKED | {"context": "In base ten."}, turn("assistant", "8", id="x1")]}
    run([row] * 3, with_markers(CHATML))
    assert re.search(r"row 1: nothing is learned from `context` of turn 1, user.* 2 more", caplog.text)
    caplog.clear()
    run([row], with_markers(CHATML.replace("{{ m.content }}", "{{ m.context }}{{ m.id }}{{ m.content }}")))
    assert caplog.text == ""


def test_half_a_tag_is_nothing_that_two_texts_share():
    thinking = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>{% endif %}")
    assert learned_of([ASKED, turn("assistant", "<b>8</b>")], thinking) == "<b>8</b><|im_end|>\n"
    assert learned_of([ASKED, turn("assistant", "")], thinking) == "<|im_end|>\n"


def test_json_and_tools_are_found_as_templates_write_them():
    quoted = turn("assistant", "", tool_calls=[{"function": {"name": "say", "arguments": {"text": 'caf\u00e9 "x"\n'}}}])
    assert learned_of([ASKED, quoted], TOOLS).startswith('{"name": "say"')


def test_a_row_far_behind_is_looked_at_too():
    rows = [{"messages": [ASKED, turn("assistant", f"It is {n}.")]} for n in range(200)]
    rows[127]["messages"][1]["content"] = "<think>hm</think>8"
    with pytest.raises(MixalignError, match="row 128: the chat template leaves out"):
        run(rows, with_markers(THOUGHTLESS))


@pytest.mark.parametrize("form", ["preference", "supervised"])
def test_a_prompt_that_changes_once_it_is_answered(form):
    prompt, answer = [turn("system", "Reply in French only."), turn("user", "Say it.")], [turn("assistant", "oui")]
    row = {"prompt": prompt, "chosen": answer, "rejected": [turn("assistant", "yes")]}
    message = r"the prompt of row 1 differently once the answer follows.*loses 'Reply in French only.'"
    with pytest.raises(MixalignError, match=message):
        run([row], with_markers(SYSTEM_LATE), form, max_length=1000)
    with pytest.raises(MixalignError, match=r"row 1 differently once more turns follow.*loses 'Reply in French only.'"):
        learned_of([*prompt, *answer], SYSTEM_LATE)
    # without a system prompt nothing moves
    assert learned_of([prompt[1], *answer], SYSTEM_LATE) == " oui</s>"


def test_the_day_of_a_template_can_be_pinned():
    dated = "<|im_start|>system\nToday is {{ strftime_now('%d %b %Y') }}.<|im_end|>\n" + CHATML
    tokenizer = with_markers(dated)
    for chat in (dated, dated.replace("{{ m.content }}", "{% generation %}{{ m.content }}{% endgeneration %}")):
        tokenizer.chat_template = chat
        dataset, _ = run([{"messages": talk("a", "b")}], tokenizer, day="2026-01-31", on_lost_text="warn")
        assert "Today is 31 Jan 2026." in texts(dataset[0], tokenizer)[0]
    tokenizer.chat_template = dated
    dataset, _ = run([{"messages": talk("a", "b")}], tokenizer)
    assert str(date.today().year) in texts(dataset[0], tokenizer)[0]


def test_a_tokenizer_that_knows_no_characters_finds_the_same(monkeypatch):
    from transformers import BatchEncoding

    messages = talk("ask", "yes", "more", "no", "and", "so")
    wanted = learned_of(messages, CHATML)
    monkeypatch.setattr(BatchEncoding, "encodings", property(lambda self: None))
    assert learned_of(messages, CHATML) == wanted == "yes<|im_end|>\nno<|im_end|>\nso<|im_end|>\n"


def test_rows_that_come_with_their_tokens():
    row = {"input_ids": [5, 6, 7, 8], "supervised": [False, True, False, True]}
    dataset, counts = run([row | {"weight": 2.0}, row])
    assert dataset[0]["prompt"].tolist() == [5]
    assert dataset[0]["completions"][0].tolist() == [6, 7, 8]
    assert dataset[0]["supervised"][0].tolist() == [True, False, True]
    assert counts.supervised_tokens == 4
    assert dataset.columns["weight"].tolist() == [2, 1]
    assert dataset.row_id_N[0] != dataset.row_id_N[1]
    pair = {"prompt_ids": [5, 6], "chosen_ids": [7, 2], "rejected_ids": [8, 9, 2]}
    dataset, _ = run([pair], form="preference")
    assert dataset[0]["prompt"].tolist() == [5, 6]
    assert [ids.tolist() for ids in dataset[0]["completions"]] == [[7, 2], [8, 9, 2]]
    with pytest.raises(MixalignError, match="no `chosen`"):
        run([row], form="preference")
