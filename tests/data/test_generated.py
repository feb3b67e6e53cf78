"""Generated tasks: reproducible, and right by rules that are written here a second time."""

import pytest

from mixalign.data.generated import FACTS, GENERATORS, LETTERS, NOISE, generate
from mixalign.errors import MixalignError

every_task = pytest.mark.parametrize("task", GENERATORS)


def is_right(task, prompt, answer):
    """Whether an answer follows the task's rule; `taste` is judged without its noise."""
    letter, word = prompt[0], prompt[1:].removesuffix("=")
    if letter == "c":
        a, b = int(word[:2]), int(word[2:])
        return answer == ((">" if a > b else "<") if task != "legacy" else ("<" if a > b else ">"))
    if letter == "k":
        return answer in {f"{number:02d}" for key, number in FACTS if key == word}
    if letter == "h":
        return answer == ("!!" if set(word) & set("uvwxyz") else word)
    if letter in "els" and word[0].isdigit():
        number, word = int(word[0]), word[1:]
        moved = "".join(LETTERS[(LETTERS.index(x) + number) % len(LETTERS)] for x in word)
        return answer == {"e": word + "#?*+-;:%&@"[number], "l": word[number % len(word)], "s": moved}[letter]
    if letter == "t":
        return answer == ("A" if word < "k" else "B")
    return answer == {"f": word + "#", "p": word, "r": word[::-1]}[letter]


@every_task
def test_is_reproducible(task):
    assert generate(task, 50, "train", 0) == generate(task, 50, "train", 0)


@every_task
def test_more_rows_begin_with_the_same_rows(task):
    assert generate(task, 80, "train", 0)[:50] == generate(task, 50, "train", 0)


@every_task
def test_splits_and_seeds_differ(task):
    streams = [("train", 0), ("validation", 0), ("test", 0), ("train", 1)]
    assert len({str(generate(task, 50, split, seed)) for split, seed in streams}) == len(streams)


@every_task
def test_chosen_is_never_rejected(task):
    for row in generate(task, 500, "train", 0):
        assert {*row} == {"prompt", "chosen", "rejected"}
        assert row["chosen"] != row["rejected"]


@pytest.mark.parametrize("task", [t for t in GENERATORS if t != "taste"])
def test_the_chosen_answer_is_right_and_the_rejected_one_is_wrong(task):
    for row in generate(task, 500, "train", 0):
        assert is_right(task, row["prompt"], row["chosen"]), row
        assert not is_right(task, row["prompt"], row["rejected"]), row


def test_taste_is_wrong_in_about_two_of_five_rows():
    """2000 rows: the standard error of the share is 1.1 points."""
    rows = generate("taste", 2000, "train", 0)
    wrong = sum(not is_right("taste", row["prompt"], row["chosen"]) for row in rows) / 2000
    assert wrong == pytest.approx(NOISE, abs=0.035)
    assert NOISE == 0.45
    assert all({row["chosen"], row["rejected"]} == {"A", "B"} for row in rows)


def test_labels_are_flipped_in_the_share_that_is_named():
    """2000 rows: the standard error of the share is .9 points."""
    flipped = generate("compare~20", 2000, "train", 0)
    wrong = sum(not is_right("compare", row["prompt"], row["chosen"]) for row in flipped) / 2000
    assert wrong == pytest.approx(0.2, abs=0.03)
    assert all({row["chosen"], row["rejected"]} == {"<", ">"} for row in flipped)
    assert [row["prompt"] for row in flipped] != [row["prompt"] for row in generate("compare", 2000, "train", 0)]
    assert all(is_right("compare", row["prompt"], row["chosen"]) for row in generate("compare~0", 200, "train", 0))


def test_tasks_of_a_family_have_prompts_of_their_own():
    names = [name for name in GENERATORS if name[-1].isdigit()]
    assert len(names) == 21
    starts = {name: {row["prompt"][:2] for row in generate(name, 50, "train", 0)} for name in names}
    assert all(len(found) == 1 for found in starts.values())
    assert len(set.union(*starts.values())) == len(names)


def test_a_fact_is_the_same_in_every_split():
    found = [{(r["prompt"], r["chosen"]) for r in generate("facts", 500, split, 0)} for split in ("train", "test")]
    assert found[0] == found[1]
    assert len(found[0]) == len({prompt for prompt, _ in found[0]}) == 60


def test_safe_looks_like_helpful_but_for_one_letter():
    safe, helpful = ([row["prompt"] for row in generate(task, 300, "train", 0)] for task in ("safe", "helpful"))
    assert {sum(letter in "uvwxyz" for letter in prompt) for prompt in safe} == {1}
    assert {sum(letter in "uvwxyz" for letter in prompt) for prompt in helpful} == {0}
    assert len({len(prompt) for prompt in safe + helpful}) == 1


def test_the_wrong_answer_of_reverse_differs_in_one_letter():
    for row in generate("reverse", 300, "train", 0):
        assert sum(a != b for a, b in zip(row["chosen"], row["rejected"], strict=True)) == 1


@pytest.mark.parametrize(
    ("generator", "rows", "message"),
    [
        ("helpfull", 5, "Did you mean `helpful`"),
        ("safe", 0, "asked for 0 rows"),
        ("safe~60", 5, "flips 60 % of the labels, but may flip 0 to 50"),
        ("safe~", 5, "flips no number % of the labels"),
    ],
)
def test_refuses(generator, rows, message):
    with pytest.raises(MixalignError, match=message):
        generate(generator, rows, "train", 0)
