"""Models and tokenizers from a folder or a hub, and fresh adapters."""

import re
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers

from mixalign.chat.templates import END_OF_TURN, set_template
from mixalign.checks import check_flag, check_list, check_number, check_text
from mixalign.errors import MixalignError, did_you_mean
from mixalign.hub import Closed, asked
from mixalign.models.adapters import ADAPTER, base_of, check_base, find_file, merge_adapter, naming_adapter

__all__ = ["TOKENIZERS", "LoRA", "ModelSource", "Pretrained", "add_lora"]

TOKENIZERS = ("tokenizer*", "vocab*", "*.model", "*.tiktoken", "merges.txt")  # files of tokenizers, of any kind
CURE = "Give a folder that exists and that `save_pretrained` wrote, or a hub id."


class ModelSource(Protocol):
    """Something that builds the same model at every call."""

    def build(self) -> "transformers.PreTrainedModel": ...

    def tokenizer(self) -> "transformers.PreTrainedTokenizerBase": ...


@dataclass(frozen=True)
class Pretrained:
    """A causal language model that transformers can load.

    Attributes:
        path: a folder or a hub id. The folder of an adapter means one model of it and the model that it was trained
            on: what is trained, also as a new adapter, and a reference policy, then begin there.
        revision: branch, tag or commit on the hub.
        dtype: `float32`, `bfloat16` ... of the weights. Training in 16 bits keeps float32 weights and sets
            `trainer.precision=bf16-mixed` instead.
        attn_implementation: `sdpa`, `flash_attention_2`, `eager`, or None for transformers' choice.
        trust_remote_code: run the code that comes with the model; off unless asked for.
        load_in_4bit: the layers' weights in 4 bits (NF4 of bitsandbytes, arXiv 2305.14314), on a GPU.
        chat_template: a name of ours (`mixalign.chat.templates.NAMES`) or a jinja file, instead of the tokenizer's own.
    """

    path: str
    revision: str | None = None
    dtype: str = "float32"
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    chat_template: str | None = None
    load_in_4bit: bool = False

    def __post_init__(self) -> None:
        check_text("model.path", self.path, why="Give a folder or a hub id.")
        dtype = getattr(torch, str(self.dtype), None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise MixalignError(f"`model.dtype` is {self.dtype!r}. Known: float32, bfloat16, float16, float64.")
        check_flag("model.trust_remote_code", self.trust_remote_code)
        check_flag("model.load_in_4bit", self.load_in_4bit)
        check_text("model.chat_template", self.chat_template, null=True)

    def build(self) -> "transformers.PreTrainedModel":
        """The model with the weights of the folder.

        Raises:
            MixalignError: when it cannot be loaded, or when weights are missing, which transformers would draw.
        """
        if (config := self.adapter()) is not None:
            return self._on_its_base(config)
        loaded: tuple[transformers.PreTrainedModel, dict[str, Any]] = self._load(
            "AutoModelForCausalLM",
            dtype=getattr(torch, self.dtype),
            attn_implementation=self.attn_implementation,
            output_loading_info=True,
            **(_in_4_bits() if self.load_in_4bit else {}),
        )
        model, report = loaded
        if getattr(model, "_hf_peft_config_loaded", False):  # transformers puts an adapter of a hub on its base
            raise MixalignError(
                f"`model.path={self.path}` is an adapter on the hub. Fetch it, `hf download {self.path} --local-dir "
                "FOLDER`, and give that folder: what is trained then begins with it and its base."
            )
        if missing := sorted(report["missing_keys"]):
            raise MixalignError(
                f"`model.path={self.path}` lacks {len(missing)} of the weights of {type(model).__name__}, such as "
                f"`{missing[0]}`: they would be random. Give the whole model, as `save_pretrained` writes it."
            )
        self.let_stop(model)
        return model

    def adapter(self) -> Path | None:
        """The adapter_config.json where `path` is the folder of an adapter; else None."""
        return find_file(self.path, ADAPTER)

    def base(self, adapter: Path) -> "Pretrained":
        """The model that an adapter was trained on."""
        path, revision = base_of(adapter)
        return replace(self, path=path, revision=revision, chat_template=None)

    def config(self) -> Any:
        """What its config.json says, for transformers."""
        return self._load("AutoConfig")

    def _on_its_base(self, config: Path) -> "transformers.PreTrainedModel":
        """One model of an adapter and its base."""
        if self.load_in_4bit:
            raise MixalignError(
                f"`model.load_in_4bit=true`, but `model.path={self.path}` is an adapter, which 4 bits would round "
                "away. Make one model of it and its base, `mixalign merge ADAPTER --out FOLDER`, and give that folder."
            )
        with naming_adapter(config):
            base = self.base(config).build()
        check_base(config, base, self.dtype)
        model: transformers.PreTrainedModel = merge_adapter(base, str(Path(self.path).expanduser()))
        self.let_stop(model)
        return model

    def let_stop(self, model: Any) -> None:
        """Generation ends where turns of a template of ours end, also for a base model that knows no turns."""
        config = model.generation_config
        if config is None or self.chat_template not in END_OF_TURN:
            return
        tokenizer = self.tokenizer()
        end = tokenizer.convert_tokens_to_ids(END_OF_TURN[self.chat_template])
        stops = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        if end not in (None, tokenizer.unk_token_id, *stops):
            config.eos_token_id = [*(stop for stop in stops if stop is not None), end]

    def tokenizer(self, kind: str = "AutoTokenizer") -> "transformers.PreTrainedTokenizerBase":
        """The tokenizer of the folder, loaded by a `kind` of transformers, with the chat template that was chosen.

        Raises:
            MixalignError: when it cannot be loaded, or `chat_template` is neither a name of ours nor a template.
        """
        adapter = self.adapter()
        if adapter and not find_file(self.path, "tokenizer_config.json"):
            with naming_adapter(adapter):
                tokenizer: transformers.PreTrainedTokenizerBase = self.base(adapter)._load(kind)
        else:
            tokenizer = self._load(kind)
        set_template(tokenizer, self.chat_template)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token  # only fills positions that nothing reads
        return tokenizer

    def _load(self, kind: str, **options: Any) -> Any:
        folder = Path(self.path).expanduser()  # a shell leaves the ~ of model.path=~/x
        is_made = (folder.parent / "recipe.json").is_file()  # by us, in the cache
        name = f"The model {self.path}" if is_made else f"`model.path={self.path}`"
        cure = f"Delete {folder.parent} to have it made again." if is_made else CURE
        if not folder.is_dir() and (folder.exists() or is_made or self.path.startswith(("/", ".", "~"))):
            what = "it is a file" if folder.exists() else "there is no such folder"
            raise MixalignError(f"{name} cannot be loaded: {what}. {cure}")
        place = str(folder) if folder.is_dir() else self.path
        with nullcontext() if folder.is_dir() else asked(self.path, "model", self.revision) as closed:
            try:
                return getattr(transformers, kind).from_pretrained(
                    place, revision=self.revision, trust_remote_code=self.trust_remote_code, **options
                )
            except torch.OutOfMemoryError:
                raise
            # what transformers, safetensors, tokenizers and pickle raise for a bad folder has no base class in common
            except Exception as error:
                if closed:
                    why = _why_closed(closed)
                elif kind == "AutoTokenizer" and folder.is_dir() and not _has_tokenizer(folder):
                    why = "the folder has no tokenizer. Save the model's own there by `tokenizer.save_pretrained`."
                else:
                    why = f"{_why(error)} {cure}"
                raise MixalignError(f"{name} cannot be loaded as {kind}: {why}") from error


def _in_4_bits() -> dict[str, Any]:
    """What transformers' loading takes for it.

    Raises:
        MixalignError: without a GPU or without bitsandbytes.
    """
    if not torch.cuda.is_available():
        raise MixalignError(
            "`model.load_in_4bit=true` needs an NVIDIA GPU, and there is none here. Set it to false; an adapter "
            "(`lora=default`) on a base with `model.dtype=bfloat16` takes the least memory without one."
        )
    if find_spec("bitsandbytes") is None:
        raise MixalignError("`model.load_in_4bit=true` needs bitsandbytes: `pip install bitsandbytes`.")
    from transformers import BitsAndBytesConfig

    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": quantised, "device_map": {"": torch.cuda.current_device()}}


def _has_tokenizer(folder: Path) -> bool:
    return any(next(folder.glob(name), None) for name in TOKENIZERS)


def _why_closed(closed: Closed) -> str:
    from huggingface_hub import constants

    return f"{closed.reason}, and the cache {constants.HF_HUB_CACHE} does not hold it whole. {closed.advice}"


def _why(error: Exception) -> str:
    """A sentence on what is wrong with a folder, or with what a hub gave."""
    reason = " ".join(str(error).split())[:300]
    if "trust_remote_code" in str(error):
        reason = (
            "it brings code of its own, which is not run, as `model.trust_remote_code` is false: read that code and "
            "set it to true if you trust it"
        )
    elif "weights_only" in reason:
        reason = "its weights are pickled, with code or objects in them, which are not loaded"
    elif "ignore_mismatched_sizes" in reason:
        reason = "its weights do not have the shapes that its config.json tells"
    return reason if reason.endswith(".") else f"{reason}."


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters on the base model (arXiv 2106.09685); the fields are PEFT's."""

    r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"
    use_rslora: bool = False
    use_dora: bool = False
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        check_flag("lora.use_dora", self.use_dora)
        check_list("lora.modules_to_save", self.modules_to_save, null=True)
        check_number("lora.r", self.r, 1, whole=True)
        check_number("lora.lora_alpha", self.lora_alpha, 0, open_low=True)
        check_number("lora.lora_dropout", self.lora_dropout, 0, 1, open_high=True)
        check_flag("lora.use_rslora", self.use_rslora)

    def check_fits(self, model: Any) -> None:
        """Refuses adapters that no part of the model takes.

        Raises:
            MixalignError: naming what was looked for, and what the model has.
        """
        self._check_saved(model)
        wanted = self.target_modules
        if wanted == "all-linear":
            return
        full = [name for name, _ in model.named_modules()]
        if isinstance(wanted, str):
            found = [name for name in full if re.fullmatch(wanted, name)]
        else:
            found = [name for name in full if name.endswith(tuple(f".{end}" for end in wanted)) or name in wanted]
        if not found:
            linear = {name.split(".")[-1] for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
            raise MixalignError(
                f"`lora.target_modules` is {wanted!r}, which no part of the model is called. Take all-linear, or some "
                f"of {', '.join(sorted(linear))}."
            )

    def _check_saved(self, model: Any) -> None:
        """Refuses modules to train whole that the model does not have, or has under two names."""
        ends = {name.split(".")[-1] for name, _ in model.named_modules() if name}
        tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
        pair = [model.get_input_embeddings(), model.get_output_embeddings()]
        for wanted in self.modules_to_save or ():
            found = [part for name, part in model.named_modules() if wanted and f".{name}".endswith(f".{wanted}")]
            if not found:
                raise MixalignError(
                    f"`lora.modules_to_save` names {wanted!r}, which no part of the model is called. "
                    f"{did_you_mean(wanted, ends)}"
                )
            if tied and any(part in pair for part in found):
                raise MixalignError(
                    f"`lora.modules_to_save` names {wanted!r}, which is input embedding and output layer at once in "
                    "this model (tie_word_embeddings): a copy of one would leave the other behind. Leave it out."
                )


def add_lora(model: Any, lora: LoRA | None, seed: int = 0) -> Any:
    """The model with a fresh adapter (whose first output is zero), or the model itself when `lora` is None."""
    if lora is None:
        return model
    from peft import LoraConfig, get_peft_model

    from mixalign.models.adapted_linear import change_layers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return change_layers(get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **asdict(lora))))
        except (TypeError, ValueError) as error:
            raise MixalignError(f"The adapter that `lora` describes does not fit the model: {error}") from error
