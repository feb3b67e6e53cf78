"""Generated tasks that show what a mixture does, without any download.

Six are for preferences. Two are easy (`helpful`, `format`), one is rare and looks like another until a trigger letter
shows up (`safe`), two are hard (`reverse`, `compare`), and one cannot be learned beyond a weak rule because 45 % of its
labels are flipped (`taste`). The first letter of a prompt tells the task; completions end with the tokenizer's EOS.

Three more make a set for fine-tuning with `compare`: `copy` has more rows than it needs, `facts` too few, and `legacy`
teaches the wrong answers to the prompts of `compare`.
"""

import random
from collections.abc import Callable

from mixalign.errors import MixalignError, did_you_mean
from mixalign.types import Example

__all__ = ["GENERATORS", "generate"]

LETTERS = "abcdefghijklmnopqrst"
TRIGGERS = "uvwxyz"
NOISE = 0.45

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
}


def generate(generator: str, rows: int, split: str, seed: int) -> list[Example]:
    """Preference rows of one generated task.

    Args:
        generator: one of GENERATORS.
        rows: how many.
        split: each split has its own stream of random numbers.

    Raises:
        MixalignError: for an unknown generator, or fewer than one row.
    """
    if generator not in GENERATORS:
        raise MixalignError(f"There is no generator `{generator}`. {did_you_mean(generator, GENERATORS)}")
    if rows < 1:
        raise MixalignError(f"Generator `{generator}` was asked for {rows} rows, but needs at least 1.")
    rng = random.Random(f"{generator}/{split}/{seed}")
    triples = [GENERATORS[generator](rng) for _ in range(rows)]
    return [Example(prompt=p, chosen=c, rejected=r) for p, c, r in triples]
