"""A small random Llama and a byte tokenizer, for generated tasks, tests and first tries on own data."""

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerFast

from mixalign.chat.templates import set_template
from mixalign.checks import check_number, check_text
from mixalign.errors import MixalignError

__all__ = ["TinyLlama", "byte_tokenizer"]

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ '<|' + message['role'] + '|>' + message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, with <pad>, <s> (put before every text) and </s>; 259 entries."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    specials = ["<pad>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(specials + alphabet)}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = _fast_tokenizer(core)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@dataclass(frozen=True)
class TinyLlama:
    """A Llama with random weights.

    Attributes:
        hidden_size, num_layers, num_heads, intermediate_size: the shape; the default has about 0.13 M weights.
        max_positions: longest sequence.
        tokenizer_file: a `tokenizers` JSON file with <pad>, <s> and </s>; None is the byte tokenizer.
        seed: of the weights.
        chat_template: a name of ours (`mixalign.chat.templates.NAMES`) or a jinja file; None is the byte tokenizer's
            own, and none for a tokenizer file.
    """

    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 4
    intermediate_size: int = 168
    max_positions: int = 2048
    tokenizer_file: str | None = None
    seed: int = 0
    chat_template: str | None = None

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_layers", "num_heads", "intermediate_size", "max_positions"):
            check_number(f"model.{name}", getattr(self, name), 1, whole=True)
        if self.hidden_size % (2 * self.num_heads):  # rotary embeddings turn pairs of numbers
            raise MixalignError(
                f"`model.hidden_size` is {self.hidden_size}, but must be a multiple of twice `model.num_heads`, which "
                f"is {self.num_heads}."
            )
        check_number("model.seed", self.seed, 0, whole=True)
        check_text("model.chat_template", self.chat_template, null=True)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer, with the chat template that was chosen.

        Raises:
            MixalignError: when the file is no tokenizer, or `chat_template` is neither a name of ours nor a template.
        """
        tokenizer = self._tokenizer()
        set_template(tokenizer, self.chat_template)
        return tokenizer

    def _tokenizer(self) -> PreTrainedTokenizerFast:
        if self.tokenizer_file is None:
            return byte_tokenizer()
        from tokenizers import Tokenizer

        try:
            core = Tokenizer.from_file(self.tokenizer_file)
        except Exception as error:  # the library has no class of its own for errors
            raise MixalignError(
                f"`model.tokenizer_file={self.tokenizer_file}` cannot be read: {error}. Give a JSON file that "
                "`Tokenizer.save` of tokenizers wrote."
            ) from error
        if missing := [token for token in ("<pad>", "<s>", "</s>") if core.token_to_id(token) is None]:
            raise MixalignError(f"`model.tokenizer_file={self.tokenizer_file}` lacks {', '.join(missing)}. Add it.")
        return _fast_tokenizer(core)

    def build(self) -> "transformers.PreTrainedModel":
        """A fresh model: the same weights at every call."""
        tokenizer = self._tokenizer()
        config = transformers.LlamaConfig(
            vocab_size=-(-len(tokenizer) // 8) * 8,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_heads,
            max_position_embeddings=self.max_positions,
            tie_word_embeddings=False,
            use_cache=False,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return transformers.LlamaForCausalLM(config)


def _fast_tokenizer(core: Any) -> PreTrainedTokenizerFast:
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)
