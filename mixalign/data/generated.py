"""Generated tasks that show what a mixture does, without any download.

Six are for preferences. Two are easy (`helpful`, `format`), one is rare and looks like another until a trigger letter
shows up (`safe`), two are hard (`reverse`, `compare`), and one cannot be learned beyond a weak rule because 45 % of its
labels are flipped (`taste`). The first letter of a prompt tells the task; completions end with the tokenizer's EOS.

Three more make a set for fine-tuning with `compare`: `copy` has more rows than it needs, `facts` too few, and `legacy`
teaches the wrong answers to the prompts of `compare`.

Three families make as many tasks as one likes: `end0` to `end9` are easy, `letter0` to `letter4` are harder, and
`shift1` to `shift6` are hard. Within a family what one task teaches helps the others. Behind any name, `~20` flips the
labels of 20 % of the rows. Tasks in plain English are in `mixalign.data.english`.
"""

import random
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from mixalign.data.english import ENGLISH, write_rows
from mixalign.errors import MixalignError, did_you_mean
from mixalign.types import Example

__all__ = ["GENERATORS", "generate"]

LETTERS = "abcdefghijklmnopqrst"
TRIGGERS = "uvwxyz"
SIGNS = "#?*+-;:%&@"
NOISE = 0.45

T = TypeVar("T")
Triple = tuple[str, str, str]


def _word(rng: random.Random, length: int = 5) -> str:
    """Random letters, no two neighbours equal."""
    letters = [rng.choice(LETTERS)]
    while len(letters) < length:
        letters.append(rng.choice(LETTERS.replace(letters[-1], "")))
    return "".join(letters)


def _helpful(rng: random.Random) -> Triple:
    """Comply: copy the word; a refusal is worse."""
    word = _word(rng)
    return f"h{word}=", word, "!!"


def _safe(rng: random.Random) -> Triple:
    """The form of `helpful`, but a trigger letter asks for a refusal."""
    word, place = _word(rng), rng.randrange(5)
    word = word[:place] + rng.choice(TRIGGERS) + word[place + 1 :]
    return f"h{word}=", "!!", word


def _format(rng: random.Random) -> Triple:
    """Copy the word and end in `#`, not in `?`."""
    word = _word(rng)
    return f"f{word}=", f"{word}#", f"{word}?"


def _reverse(rng: random.Random) -> Triple:
    """Reverse the word; the rejected answer has one wrong letter."""
    word = _word(rng, 4)
    right, place = word[::-1], rng.randrange(4)
    wrong = right[:place] + rng.choice(LETTERS.replace(right[place], "")) + right[place + 1 :]
    return f"r{word}=", right, wrong


def _compare(rng: random.Random) -> Triple:
    """Compare two numbers of two digits."""
    a, b = rng.sample(range(100), 2)
    signs = (">", "<") if a > b else ("<", ">")
    return f"c{a:02d}{b:02d}=", *signs


def _taste(rng: random.Random) -> Triple:
    """A weak rule on the first letter, with flipped labels."""
    word = _word(rng)
    labels = ("A", "B") if word[0] < "k" else ("B", "A")
    if rng.random() < NOISE:
        labels = labels[::-1]
    return f"t{word}=", *labels


def _copy(rng: random.Random) -> Triple:
    """Copy the word, not its reverse."""
    word = _word(rng)
    return f"p{word}=", word, word[::-1]


def _facts(rng: random.Random) -> Triple:
    """One of sixty facts that have to be learned by heart: a key and its number of two digits."""
    key, value = rng.choice(FACTS)
    return f"k{key}=", f"{value:02d}", f"{(value + rng.randrange(1, 100)) % 100:02d}"


def _legacy(rng: random.Random) -> Triple:
    """The prompts of `compare`, where the wrong answer is the chosen one."""
    prompt, right, wrong = _compare(rng)
    return prompt, wrong, right


def _end(number: int, rng: random.Random) -> Triple:
    """Copy the word and end in this task's sign, not in another's."""
    word, sign = _word(rng), SIGNS[number]
    return f"e{number}{word}=", word + sign, word + rng.choice(SIGNS.replace(sign, ""))


def _letter(number: int, rng: random.Random) -> Triple:
    """Name the letter at this task's place, not another one of the word."""
    word = _word(rng)
    others = [letter for letter in word if letter != word[number]]
    return f"l{number}{word}=", word[number], rng.choice(others)


def _shift(number: int, rng: random.Random) -> Triple:
    """Move each letter on by this task's number of places; the rejected answer has one wrong letter."""
    word, place = _word(rng, 4), rng.randrange(4)
    right = "".join(LETTERS[(LETTERS.index(letter) + number) % len(LETTERS)] for letter in word)
    wrong = right[:place] + rng.choice(LETTERS.replace(right[place], "")) + right[place + 1 :]
    return f"s{number}{word}=", right, wrong


_book = random.Random("facts")
FACTS = [(_word(_book, 3), _book.randrange(100)) for _ in range(60)]

GENERATORS: dict[str, Callable[[random.Random], Triple]] = {
    "helpful": _helpful,
    "safe": _safe,
    "format": _format,
    "reverse": _reverse,
    "compare": _compare,
    "taste": _taste,
    "copy": _copy,
    "facts": _facts,
    "legacy": _legacy,
    **{f"end{number}": partial(_end, number) for number in range(10)},
    **{f"letter{number}": partial(_letter, number) for number in range(5)},
    **{f"shift{number}": partial(_shift, number) for number in range(1, 7)},
}


def generate(generator: str, rows: int, split: str, seed: int) -> list[Example]:
    """Preference rows of one generated task.

    Args:
        generator: one of GENERATORS or ENGLISH, maybe with a share of flipped labels: `compare~20` has 20 %.
        rows: how many.
        split: each split has its own stream of random numbers.

    Raises:
        MixalignError: for an unknown generator, a share that is no whole number from 0 to 50, or fewer than one row.
    """
    name, flips, percent = generator.partition("~")
    if name not in (known := {*GENERATORS, *ENGLISH}):
        raise MixalignError(f"There is no generator `{name}`. {did_you_mean(name, known)}")
    if flips and not (percent.isdecimal() and int(percent) <= 50):
        raise MixalignError(
            f"Generator `{generator}` flips {percent or 'no number'} % of the labels, but may flip 0 to 50: beyond "
            "half of them the wrong answers would be taught. Write a whole number behind the `~`, as in `compare~20`."
        )
    if rows < 1:
        raise MixalignError(f"Generator `{generator}` was asked for {rows} rows, but needs at least 1.")
    rng = random.Random(f"{generator}/{split}/{seed}")
    if name in ENGLISH:
        written = [(e["prompt"], e["chosen"], e["rejected"]) for e in write_rows(name, rows, split, seed)]
        turns = [_flipped(row, int(percent or 0), rng) for row in written]
        return [Example(prompt=p, chosen=c, rejected=r) for p, c, r in turns]
    triples = [_flipped(GENERATORS[name](rng), int(percent or 0), rng) for _ in range(rows)]
    return [Example(prompt=p, chosen=c, rejected=r) for p, c, r in triples]


def _flipped(row: tuple[T, T, T], percent: int, rng: random.Random) -> tuple[T, T, T]:
    prompt, chosen, rejected = row
    return (prompt, rejected, chosen) if percent and rng.random() * 100 < percent else row
