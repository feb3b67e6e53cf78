"""Chat templates for training, by name or from a file; jinja files beside this one are ours.

Each of ours writes the first turns of a conversation as it writes them when more follow, puts `{% generation %}` around
what an assistant's turn adds to the generation prompt, keeps every thought, and raises for what it would have to leave
out. It serves for inference as well.
"""

import logging
import re
from pathlib import Path
from typing import Any

from mixalign.errors import MixalignError, did_you_mean

__all__ = ["END_OF_TURN", "NAMES", "read_template", "set_template", "suggest_template", "template_text"]

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
END_OF_TURN = {
    "chatml": "<|im_end|>",
    "deepseek_r1": "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "gptoss": "<|return|>",
    "llama3": "<|eot_id|>",
    "mistral": "</s>",
    "phi3": "<|end|>",
    "qwen3": "<|im_end|>",
    "qwen3_5": "<|im_end|>",
    "qwen3_5_nothink": "<|im_end|>",
}
"""Name of a template -> the token that ends an assistant's turn, where the model is to stop."""
NAMES = tuple(sorted(END_OF_TURN))
ESCAPE = re.compile(r"\\u([0-9a-f]{4})")  # our files are ASCII; not every engine that renders templates reads escapes
ORDER = ("qwen3_5", "qwen3_5_nothink", "qwen3", *NAMES)  # the first that fits is suggested
EMPTY_THOUGHT = re.compile(r"<think>\s*</think>\s*")
ASKED = [{"role": "user", "content": "Ask it."}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "Answer it."}]
BOS = "<s>"


def template_text(name: str) -> str:
    """The text of a template of ours.

    Raises:
        MixalignError: when none has the name.
    """
    if name not in END_OF_TURN:
        raise MixalignError(f"No chat template of mixalign is called {name!r}. {_advice(name)}")
    text = (FOLDER / f"{name.removesuffix('_nothink')}.jinja").read_text(encoding="utf-8")
    if name.endswith("_nothink"):
        text = text.replace("set thinks = true", "set thinks = false")
    return ESCAPE.sub(lambda code: chr(int(code[1], 16)), text)


def read_template(chosen: str, key: str = "model.chat_template") -> str:
    """The text of a chat template.

    Args:
        chosen: a name of ours, or else the path of a file.
        key: the setting, for messages.

    Raises:
        MixalignError: when it is neither, the file cannot be read, or it is no template.
    """
    if chosen in END_OF_TURN:
        return template_text(chosen)
    path = Path(chosen).expanduser()
    if not path.is_file():
        wrong = "which is a folder" if path.is_dir() else "which is neither a template of mixalign nor a file"
        raise MixalignError(f"`{key}` is {chosen!r}, {wrong}. {_advice(path.stem)}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MixalignError(f"`{key}={chosen}` cannot be read: {error}. Give a jinja file in UTF-8.") from error
    _check_syntax(text, f"{key}={chosen}")
    return text


def set_template(tokenizer: Any, chosen: str | None) -> None:
    """Gives a tokenizer a chat template in place of its own, which `save_pretrained` then writes; None changes nothing.

    Warns where the tokenizer lacks the token that ends a turn in a template of ours.

    Raises:
        MixalignError: see `read_template`.
    """
    if chosen is None:
        return
    tokenizer.chat_template = read_template(chosen)
    end = END_OF_TURN.get(chosen)
    if end and tokenizer.convert_tokens_to_ids(end) in (None, tokenizer.unk_token_id):
        log.warning(
            "model.chat_template=%s ends the assistant's turns by %s, which is no token of this tokenizer: it is "
            "learned as plain text, and generation does not stop at it. Choose the template of the model's family.",
            chosen,
            end,
        )


def suggest_template(chat_template: str) -> str | None:
    """The name of the template of ours that writes a question and its answer as another template does.

    What the two write before the question, such as a default system prompt, may differ.

    Args:
        chat_template: the text of a tokenizer's own.

    Returns:
        None when none does, or the template cannot be rendered.
    """
    try:
        answer, prompt = _render(chat_template)
    except Exception:  # of jinja, or of the Python that the template runs: any kind
        return None
    thinks = "<think>" in chat_template and "reasoning_effort" not in chat_template  # Qwen3.8 writes the effort
    for name in ORDER:
        ours, opening = _render(template_text(name))
        same_start = ours.startswith(BOS) == answer.startswith(BOS)
        ours, theirs = ours.removeprefix(BOS), answer
        if name == "deepseek_r1":  # its own opens no thought before an answer without one
            ours, theirs = EMPTY_THOUGHT.sub("", ours), EMPTY_THOUGHT.sub("", theirs)
        fits = ours in theirs and prompt.endswith(opening.removeprefix(BOS))
        if same_start and fits and (thinks or not name.startswith("qwen3")):
            return name
    return None


def _render(template: str) -> tuple[str, str]:
    """A question with its answer, and with a generation prompt, as a template writes them."""
    from transformers.utils import chat_template_utils

    render: Any = chat_template_utils.render_jinja_template  # its types are not those of what it returns
    tokens = {"bos_token": BOS, "eos_token": "</s>"}
    (answer,), _ = render([ANSWERED], chat_template=template, **tokens)
    (prompt,), _ = render([ASKED], chat_template=template, add_generation_prompt=True, **tokens)
    return answer, prompt


def _check_syntax(text: str, what: str) -> None:
    from jinja2 import TemplateSyntaxError
    from transformers.utils.chat_template_utils import render_jinja_template

    if not text.strip():
        raise MixalignError(f"`{what}` is empty. Give a jinja file that renders `messages`.")
    try:
        render_jinja_template([], chat_template=text)  # compiles it as for conversations, of which there are none
    except TemplateSyntaxError as error:
        reason = str(error.message).rstrip(".")
        raise MixalignError(
            f"`{what}` is no valid template: line {error.lineno}: {reason}. Correct the file."
        ) from error


def _advice(word: str) -> str:
    """The closest name and all of them."""
    listed = f"Known: {', '.join(NAMES)}; or give the path of a .jinja file."
    closest = did_you_mean(word, NAMES)
    return f"{closest} {listed}" if closest.startswith("Did") else listed
