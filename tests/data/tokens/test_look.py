"""The check of sampled conversations: what it compares, and that its work grows with the text and no faster."""

from hypothesis import given
from hypothesis import strategies as st

from mixalign.data.tokens import look


@given(st.text() | st.text(st.characters(max_codepoint=127)))
def test_letters_and_digits_are_what_is_compared(text):
    assert look._squeeze(text) == look.MARKS.sub("", text)


def conversation(turns: int) -> look.Rendered:
    said = [f"turn number {n} of the conversation" for n in range(turns)]
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]
    text = "".join(f"{line}<e>" for line in said)
    places = {n: text.index(line) for n, line in enumerate(said)}
    spans = {n: (at, at + len(said[n]) + 3) for n, at in places.items() if n % 2}
    return look.Rendered(messages, text, spans, {n: [7] for n in spans}, turns)


def test_a_long_conversation_is_read_once(monkeypatch):
    characters = []
    squeeze = look._squeeze
    monkeypatch.setattr(look, "_squeeze", lambda text: characters.append(len(text)) or squeeze(text))
    for turns in (20, 200):
        characters.clear()
        seen = conversation(turns)
        assert look.problem_of(seen, {7: "<e>"}) is None
        assert sum(characters) < 6 * len(seen.text)


def test_what_the_user_says_is_found_in_what_is_learned():
    seen = conversation(6)
    start, end = seen.spans[3]
    wide = look.Rendered(seen.messages, seen.text, {**seen.spans, 3: (start - 40, end)}, seen.ends, seen.asked)
    problem = look.problem_of(wide, {7: "<e>"})
    assert problem == "'turn number 2 of the conversation' (content) of turn 3, user is learned with turn 4, assistant"
