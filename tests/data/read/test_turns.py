"""What a turn of a conversation may look like, and what it becomes."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixalign.data.read.formats import to_example
from mixalign.errors import MixalignError

few = settings(max_examples=100, deadline=None, derandomize=True)


def turn(role: str, content, **more) -> dict:
    return {"role": role, "content": content, **more}


def wrap(text: str, cuts: list[int], padded: bool) -> list[dict]:
    """A text as parts, cut at some places; padded as a table of texts and images writes them."""
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    parts = [{"type": "text", "text": text[a:b]} for a, b in pairwise(edges)]
    return [{**part, "image_url": None} for part in parts] if padded else parts


ROLE = st.sampled_from(["system", "developer", "user", "assistant", "tool"])
TURN = st.tuples(ROLE, st.text(max_size=8), st.lists(st.integers(0, 9), max_size=3), st.booleans())


@given(st.lists(TURN, min_size=1, max_size=4), st.sampled_from(["messages", "prompt and completion", "conversations"]))
@few
def test_parts_of_text_are_the_text_in_every_role_and_format(turns, form):
    plain = [turn(role, text) for role, text, _, _ in turns]
    parts = [turn(role, wrap(text, cuts, padded)) for role, text, cuts, padded in turns]
    answer = [turn("assistant", "a")]
    rows = {
        "messages": lambda found: {"messages": found},
        "prompt and completion": lambda found: {"prompt": found, "completion": answer},
        "conversations": lambda found: {"conversations": [{"from": t["role"], "value": t["content"]} for t in found]},
    }
    assert to_example(rows[form](parts), {}) == to_example(rows[form](plain), {})


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "image_url", "image_url": {"url": "cat.png"}}, "part 2 of turn 1 of `messages` .* type 'image_url'"),
        ({"type": "image"}, "type 'image'.*images, audio, video and files are not read"),
        ({"type": "input_audio", "input_audio": {}}, "type 'input_audio'"),
        ({"type": "video", "text": None}, "type 'video'"),
        ({"image": "cat.png"}, "type None"),
        ({"type": "text", "text": 3}, r"part 2 of turn 1 of `messages` has `text` 3 \(int\)"),
        ("cat", r"part 2 of turn 1 of `messages` is 'cat' \(str\)"),
    ],
)
def test_other_parts_are_refused_by_name(part, message):
    with pytest.raises(MixalignError, match=message):
        to_example({"messages": [turn("user", [{"type": "text", "text": "What?"}, part])]}, {})
