"""Our chat templates: prefixes stay, masks hold what the assistant adds, nothing is lost, the text is the family's."""

import re
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from mixalign.chat.templates import END_OF_TURN, NAMES, read_template, set_template, suggest_template, template_text
from mixalign.errors import MixalignError
from mixalign.models.tiny import byte_tokenizer

FULL, BAR = "\uff5c", "\u2581"
SPECIAL = [
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
SPECIAL += ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>", "<|system|>", "<|user|>"]
SPECIAL += ["<|assistant|>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"]
SPECIAL += [f"<{FULL}User{FULL}>", f"<{FULL}Assistant{FULL}>", f"<{FULL}end{BAR}of{BAR}sentence{FULL}>"]
WITH_TOOLS = {"chatml", "gptoss", "mistral", "qwen3", "qwen3_5", "qwen3_5_nothink"}
WITH_THOUGHTS = {"chatml", "deepseek_r1", "gptoss", "qwen3", "qwen3_5", "qwen3_5_nothink"}
EMPTY_THOUGHT = re.compile(r"<think>\s*</think>\s*")
CALL = {"id": "abcdefgh1", "type": "function", "function": {"name": "look", "arguments": {"at": "sky", "often": 2}}}
LOOK = {
    "name": "look",
    "description": "Looks at a thing.",
    "parameters": {
        "type": "object",
        "properties": {
            "at": {"type": "string", "description": "what"},
            "often": {"type": "integer", "default": 1},
            "how": {"type": "string", "enum": ["near", "far"]},
            "all": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["at"],
    },
}
TOOLS = [{"type": "function", "function": LOOK}]
WORDS = st.text("abcXYZ 09.,\n\u00e9\u6c34", min_size=1, max_size=12)


def _user(text):
    return {"role": "user", "content": text}


def _assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


SYSTEM = {"role": "system", "content": "Be kind."}
PLAIN = [SYSTEM, _user("Q"), _assistant("A"), _user("R"), _assistant("B")]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    made = byte_tokenizer()
    made.add_tokens(SPECIAL, special_tokens=True)
    return made


def render(name, messages, **variables):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template_text(name)
    return tokenizer.apply_chat_template(messages, tokenize=False, **variables)


def masked(tokenizer, name, messages, **variables):
    """The texts that are learned, one a run of tokens."""
    tokenizer.chat_template = template_text(name)
    options = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    got = tokenizer.apply_chat_template(messages, **options, **variables)
    pairs = zip(got["input_ids"], got["assistant_masks"], strict=True)
    runs = [(bool(mark), [token for token, _ in run]) for mark, run in groupby(pairs, lambda pair: pair[1])]
    return [tokenizer.decode(ids) for mark, ids in runs if mark]


@st.composite
def conversations(draw, tools=False, thoughts=False, words=WORDS, system=None, most=4):
    """System or none, then rounds: user, calls of tools and their results, answer."""
    turns = []
    if draw(st.booleans()) if system is None else system:
        turns.append({"role": "system", "content": draw(words)})
    for _ in range(draw(st.integers(1, most))):
        turns.append(_user(draw(words)))
        for _ in range(draw(st.integers(0, 2)) if tools else 0):
            turns.append(_assistant("", tool_calls=[CALL]))
            turns.append({"role": "tool", "content": draw(words), "tool_call_id": "abcdefgh1"})
        answer = _assistant(draw(words))
        kind = draw(st.sampled_from(["none", "key", "inside"])) if thoughts else "none"
        if kind == "key":
            answer["reasoning_content"] = draw(words)
        elif kind == "inside":
            answer["content"] = f"<think>\n{draw(words)}\n</think>\n\n{answer['content']}"
        turns.append(answer)
    return turns


def any_conversation(name):
    """Without thoughts where the generation prompt says that there is none."""
    return conversations(tools=name in WITH_TOOLS, thoughts=name in WITH_THOUGHTS - {"qwen3_5_nothink"})


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_more_turns_change_nothing_before_them(name, data):
    messages = data.draw(any_conversation(name))
    full = render(name, messages)
    for count in range(1, len(messages)):
        assert full.startswith(render(name, messages[:count])), f"the first {count} turns are written differently"
        if messages[count]["role"] == "assistant":
            assert full.startswith(render(name, messages[:count], add_generation_prompt=True))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_mask_holds_what_the_assistant_adds_to_the_generation_prompt(name, data, tokenizer):
    messages = data.draw(any_conversation(name))
    tools = TOOLS if name in WITH_TOOLS else None
    wanted = []
    for turn, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = render(name, messages[:turn], add_generation_prompt=True, tools=tools)
            wanted.append(render(name, messages[: turn + 1], tools=tools)[len(prompt) :])
    assert masked(tokenizer, name, messages, tools=tools) == wanted


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_word_of_the_assistant_is_learned_and_no_other(name, data, tokenizer):
    messages = data.draw(any_conversation(name))
    for number, message in enumerate(messages):  # words that can be found again
        message["content"] = message["content"] and f"{message['content']} {message['role']}{number}."
        if message.get("reasoning_content"):
            message["reasoning_content"] += f" thought{number}."
    learned, full = "".join(masked(tokenizer, name, messages)), render(name, messages)
    for number, message in enumerate(messages):
        word = f"{message['role']}{number}."
        assert (word in learned) == (message["role"] == "assistant" and message["content"] != "")
        parts = [*re.split(r"</?think>", message["content"]), message.get("reasoning_content", "")]
        assert all(part.strip() in full or message["role"] == "tool" for part in parts)
        assert f"thought{number}." in learned or not message.get("reasoning_content")
    answers = [turn for turn in messages if turn["role"] == "assistant" and not turn.get("tool_calls")]
    assert learned.count(END_OF_TURN[name]) >= len(answers)
    assert learned.rstrip("\n").endswith(END_OF_TURN[name])


LEARNED = {  # of an answer A, by hand
    "chatml": "A<|im_end|>\n",
    "deepseek_r1": f"\n</think>\n\nA<{FULL}end{BAR}of{BAR}sentence{FULL}>",
    "gptoss": "<|channel|>final<|message|>A<|return|>",
    "llama3": "A<|eot_id|>",
    "mistral": " A</s>",
    "phi3": "A<|end|>\n",
    "qwen3": "<think>\n\n</think>\n\nA<|im_end|>\n",
    "qwen3_5": "\n</think>\n\nA<|im_end|>\n",
    "qwen3_5_nothink": "A<|im_end|>\n",
}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_learned_of_a_plain_answer(name, tokenizer):
    assert masked(tokenizer, name, PLAIN) == [LEARNED[name], LEARNED[name].replace("A", "B", 1)]


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5", "qwen3_5_nothink", "deepseek_r1"])
def test_an_empty_thought_in_the_prompt_is_not_learned(name, tokenizer):
    answers = masked(tokenizer, name, PLAIN, enable_thinking=False)
    assert [answer[:1] for answer in answers] == ["A", "B"]
    prompt = render(name, PLAIN[:2], enable_thinking=False, add_generation_prompt=True)
    assert prompt.endswith("<think>\n\n</think>\n\n")
    assert render(name, PLAIN, enable_thinking=False).startswith(prompt)
    thoughtful = [_user("Q"), _assistant("A", reasoning_content="T")]
    assert "T\n</think>" in masked(tokenizer, name, thoughtful, enable_thinking=False)[0]


@pytest.mark.parametrize("name", sorted(WITH_THOUGHTS - {"chatml"}))
@pytest.mark.parametrize(
    "content", ["<think>\nT\n</think>\n\nA", "T\n</think>\n\nA", "<think>T</think>A", "\n<think>T</think>\nA"]
)
def test_a_thought_in_the_content_is_one_beside_it(name, content):
    beside = [_user("Q"), _assistant("A", reasoning_content="T")]
    assert render(name, [_user("Q"), _assistant(content)]) == render(name, beside)
    assert render(name, [_user("Q"), _assistant("A", thinking="T")]) == render(name, beside)


@pytest.mark.parametrize("name", sorted(WITH_THOUGHTS))
def test_no_text_around_tags_of_thoughts_is_lost(name):
    for content in (
        "first <think>T</think> A",
        "<think>T</think> A </think> then",
        "<think>S<think>T</think> A",
        "<think> A",
    ):
        text = render(name, [_user("Q"), _assistant(content)])
        for word in re.findall(r"\w+", content.replace("think", "")):
            assert word in text, f"{word} of {content} is lost"


MISTRAL = [
    ([SYSTEM, _user("Q"), _assistant("A"), _user("R")], None, "<s>[INST] Be kind.\n\nQ[/INST] A</s>[INST] R[/INST]"),
    (
        [
            _user("Q"),
            _assistant("", tool_calls=[CALL]),
            {"role": "tool", "content": "blue", "tool_call_id": "abcdefgh1"},
        ],
        [{"type": "function", "function": {"name": "look"}}],
        '<s>[AVAILABLE_TOOLS] [{"type": "function", "function": {"name": "look"}}][/AVAILABLE_TOOLS][INST] Q[/INST]'
        '[TOOL_CALLS] [{"name": "look", "arguments": {"at": "sky", "often": 2}, "id": "abcdefgh1"}]</s>'
        '[TOOL_RESULTS] {"content": "blue", "call_id": "abcdefgh1"}[/TOOL_RESULTS]',
    ),
]


@pytest.mark.parametrize(("messages", "tools", "wanted"), MISTRAL)
def test_mistral(messages, tools, wanted):
    assert render("mistral", messages, tools=tools) == wanted


@pytest.mark.parametrize("name", sorted(WITH_TOOLS - {"qwen3_5", "qwen3_5_nothink"}))
def test_arguments_as_a_json_text_are_those_of_the_object(name):
    text = {"id": "abcdefgh1", "function": {"name": "look", "arguments": '{"at": "sky", "often": 2}'}}
    asked = [_user("Q")]
    assert render(name, [*asked, _assistant(None, tool_calls=[text])]) == render(
        name, [*asked, _assistant("", tool_calls=[CALL])]
    )


REFUSED = [
    (name, messages, tools)
    for name in NAMES
    for messages, tools in [
        ([{"role": "critic", "content": "No."}], None),
        ([_user("Q"), _assistant([{"type": "text", "text": "A"}])], None),
        *(
            []
            if name in WITH_TOOLS
            else [([_user("Q")], TOOLS), ([_user("Q"), _assistant("A", tool_calls=[CALL])], None)]
        ),
        *([] if name in WITH_THOUGHTS else [([_user("Q"), _assistant("A", reasoning_content="T")], None)]),
    ]
] + [
    ("mistral", [SYSTEM, _assistant("A")], None),
    ("mistral", [_user("Q"), _assistant("A", tool_calls=[CALL])], None),
    ("gptoss", [_user("Q"), _assistant("", tool_calls=[CALL, CALL])], None),
    ("gptoss", [_user("Q"), _assistant("<|channel|>analysis<|message|>T<|end|>")], None),
    ("qwen3_5", [_user("Q"), SYSTEM], None),
    ("deepseek_r1", [_user("Q"), SYSTEM], None),
]


@pytest.mark.parametrize(("name", "messages", "tools"), REFUSED)
def test_what_a_template_cannot_write_it_refuses(name, messages, tools):
    with pytest.raises(TemplateError, match=r"template|text|call|channels"):
        render(name, messages, tools=tools)


# against the templates that TRL ships

FAMILY = {
    "chatml": "qwen2_5",
    "deepseek_r1": "deepseek_r1_distill",
    "gptoss": "gptoss",
    "llama3": "llama3",
    "phi3": "phi3",
    "qwen3": "qwen3",
    "qwen3_5": "qwen3_6",
    "qwen3_5_nothink": "qwen3_5_nothink",
}
CLEAN = WORDS.map(lambda text: f"w{text}w")


def families():
    trl = pytest.importorskip("trl", reason="needs the extra `trl`")
    return Path(trl.__file__).parent / "chat_templates"


def theirs(name, messages, **variables):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (families() / f"{FAMILY[name]}.jinja").read_text()
    return tokenizer.apply_chat_template(messages, tokenize=False, **variables)


def in_common(name, text):
    """Without what the comment at the top of a template says that it does otherwise."""
    if name == "gptoss":
        return text.replace("<|return|>", "<|end|>")
    return text.removesuffix("</s>") if name == "phi3" else EMPTY_THOUGHT.sub("", text)


@pytest.mark.parametrize("name", FAMILY)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_plain_conversations_read_as_those_of_the_family(name, data):
    messages = data.draw(conversations(system=True, words=CLEAN))
    assert in_common(name, render(name, messages)) == in_common(name, theirs(name, messages))
    asked = {"messages": messages[:-1], "add_generation_prompt": True}
    assert in_common(name, render(name, **asked)) == in_common(name, theirs(name, **asked))


@pytest.mark.parametrize("name", sorted(set(FAMILY) - {"phi3", "deepseek_r1"}))
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_one_exchange_is_that_of_the_family_to_the_letter(name, data):
    thoughts = name in WITH_THOUGHTS - {"chatml", "gptoss"}
    messages = data.draw(conversations(system=True, words=CLEAN, thoughts=thoughts, most=1))
    assert render(name, messages) == theirs(name, messages)
    if name == "gptoss":
        messages[-1]["thinking"] = data.draw(CLEAN)
        assert render(name, messages) == theirs(name, messages)


@pytest.mark.parametrize("name", sorted((WITH_TOOLS & set(FAMILY)) - {"qwen3_5_nothink"}))
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_tools_are_those_of_the_family(name, data):
    messages = data.draw(conversations(system=True, words=CLEAN, tools=True, most=1))
    assume(any(turn.get("tool_calls") for turn in messages))
    assert in_common(name, render(name, messages, tools=TOOLS)) == in_common(name, theirs(name, messages, tools=TOOLS))


SUGGESTED = {
    **{FAMILY[name]: name for name in FAMILY},
    "phi3_5": "phi3",
    "qwen3_5_think": "qwen3_5",
    "qwen3_instruct_2507": "chatml",
    "llama3_1": "llama3",
    "llama3_2": "llama3",
    **dict.fromkeys(["gemma3", "glm4moe", "cohere2", "lfm2", "lfm2_2_5", "nemotron_3_nano", "smolvlm", "qwen3_8"]),
}


@pytest.mark.parametrize("family", SUGGESTED)
def test_a_family_is_recognised_by_what_its_template_writes(family):
    assert suggest_template((families() / f"{family}.jinja").read_text()) == SUGGESTED[family]


LAST_USER = (  # the logic of Mistral v0.3
    "{{ bos_token }}{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {% if loop.last and system %}"
    "{{ system + '\n\n' }}{% endif %}{{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("text", "name"),
    [(template_text(name), name) for name in NAMES]
    + [
        (LAST_USER, "mistral"),
        (LAST_USER.replace("[INST] ", "[INST]"), None),  # of later tokenizers
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", None),
        ("{% for m in messages %}", None),
        ("{{ raise_exception('no') }}", None),
    ],
)
def test_a_template_is_suggested_where_one_writes_the_same(text, name):
    assert suggest_template(text) == name


# the setting


def test_a_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text("{% generation %}{{ messages[0].content }}{% endgeneration %}\n")
    tokenizer = byte_tokenizer()
    set_template(tokenizer, str(path))
    assert tokenizer.chat_template == path.read_text()


def test_none_keeps_the_own_template():
    tokenizer = byte_tokenizer()
    set_template(tokenizer, None)
    assert tokenizer.chat_template == byte_tokenizer().chat_template


@pytest.mark.parametrize("chosen", ["qwen", "qwen3.5", "models/chatlm.jinja", "zzz", "templates"])
def test_what_is_neither_a_name_nor_a_file_is_refused(chosen, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "templates").mkdir()
    with pytest.raises(MixalignError) as caught:
        read_template(chosen)
    text = str(caught.value)
    assert f"`model.chat_template` is {chosen!r}" in text
    assert ", ".join(NAMES) in text
    assert ("Did you mean `qwen3" in text) == chosen.startswith("qwen")
    assert ("`chatml`" in text) == ("chatlm" in chosen)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\n{% for m in messages %}\n{{ m.content }}", 3),
        ("{{ x | nofilter }}", 1),
        ("\n{% gen %}", 2),
        ("\n{{ 'a }}", 2),
    ],
)
def test_an_error_of_syntax_names_file_and_line(text, line, tmp_path):
    path = tmp_path / "bad.jinja"
    path.write_text(text)
    with pytest.raises(MixalignError, match=rf"model\.chat_template={path}` is no valid template: line {line}: "):
        read_template(str(path))


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe"])
def test_a_file_without_a_template_is_refused(content, tmp_path):
    path = tmp_path / "bad.jinja"
    path.write_bytes(content)
    with pytest.raises(MixalignError, match=re.escape(str(path))):
        read_template(str(path))


@pytest.mark.parametrize("name", NAMES)
def test_the_tokenizer_is_told_to_lack_the_end_of_a_turn(name, tokenizer, caplog):
    set_template(tokenizer, name)
    assert not caplog.records
    set_template(byte_tokenizer(), name)
    assert [END_OF_TURN[name] in record.getMessage() for record in caplog.records] == (
        [] if name == "mistral" else [True]
    )


def test_files_are_ascii_and_what_is_exported_has_no_escapes():
    for path in Path(read_template.__code__.co_filename).parent.glob("*.jinja"):
        assert path.read_text().isascii()
        assert r"\u" not in template_text(path.stem)
        assert path.read_text().startswith("{#-"), "a template says at its top in what it differs"
