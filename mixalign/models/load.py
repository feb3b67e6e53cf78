"""Models and tokenizers from a folder or a hub, and their fingerprints."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mixalign.errors import MixalignError

__all__ = ["LoRA", "ModelSource", "Pretrained", "add_lora", "weights_fingerprint"]


class ModelSource(Protocol):
    """Something that builds the same model at every call."""

    def build(self) -> PreTrainedModel: ...

    def tokenizer(self) -> PreTrainedTokenizerBase: ...


@dataclass(frozen=True)
class Pretrained:
    """A causal language model that transformers can load.

    Attributes:
        path: a folder or a hub id.
        revision: branch, tag or commit on the hub.
        dtype: `float32`, `bfloat16` ... of the weights. Training in 16 bits keeps float32 weights and sets
            `trainer.precision=bf16-mixed` instead.
        attn_implementation: `sdpa`, `flash_attention_2`, `eager`, or None for transformers' choice.
        trust_remote_code: run the code that comes with the model; off unless asked for.
    """

    path: str
    revision: str | None = None
    dtype: str = "float32"
    attn_implementation: str | None = None
    trust_remote_code: bool = False

    def build(self) -> PreTrainedModel:
        return self._load(
            AutoModelForCausalLM,
            dtype=getattr(torch, self.dtype),
            attn_implementation=self.attn_implementation,
        )

    def tokenizer(self) -> PreTrainedTokenizerBase:
        tokenizer = self._load(AutoTokenizer)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token  # only fills positions that nothing reads
        return tokenizer

    def _load(self, kind: Any, **options: Any) -> Any:
        try:
            return kind.from_pretrained(
                self.path, revision=self.revision, trust_remote_code=self.trust_remote_code, **options
            )
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise MixalignError(
                f"`model.path={self.path}` cannot be loaded as {kind.__name__}: {first} Give a folder that "
                "`save_pretrained` wrote, or a hub id that this machine can reach (HF_HUB_OFFLINE forbids it)."
            ) from error


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters on the base model (arXiv 2106.09685); the fields are PEFT's."""

    r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"
    use_rslora: bool = False


def add_lora(model: Any, lora: LoRA | None, seed: int = 0) -> Any:
    """The model with a fresh adapter (whose first output is zero), or the model itself when `lora` is None."""
    if lora is None:
        return model
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **asdict(lora)))
        except (TypeError, ValueError) as error:
            raise MixalignError(f"The adapter that `lora` describes does not fit the model: {error}") from error


def weights_fingerprint(model: torch.nn.Module) -> str:
    """16 hexadecimal digits that change with any weight, buffer or setting of the model."""
    digest = hashlib.sha256()
    config = getattr(model, "config", None)
    if config is not None:
        keep = {k: v for k, v in config.to_dict().items() if not k.startswith("_") and k != "transformers_version"}
        digest.update(json.dumps(keep, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy() if flat.numel() else b"")
    return digest.hexdigest()[:16]
