"""The TRL side of the comparisons: the same rows and settings through TRL's own trainers."""

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from common import StepClock
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from with_mixalign import LEARNING_RATE

__all__ = ["lora_config", "make_trainer", "one_batch_loss", "train"]

TRAINERS: dict[str, tuple[Any, Any]] = {"dpo": (DPOConfig, DPOTrainer), "sft": (SFTConfig, SFTTrainer)}

# what each variant changes of TRL's defaults
PLAIN_ORDER = {"train_sampling_strategy": "sequential"}
GROUPED = {
    "train_sampling_strategy": "group_by_length",
    "remove_unused_columns": False,
    "gradient_checkpointing": False,
}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "dpo": {"default": PLAIN_ORDER, "best": GROUPED | {"precompute_ref_log_probs": True}},
    "sft": {
        "default": PLAIN_ORDER,
        "padding_free": PLAIN_ORDER | {"padding_free": True, "max_length": None, "gradient_checkpointing": False},
        "packing": PLAIN_ORDER | {"packing": True, "gradient_checkpointing": False},
        "best": GROUPED,
    },
}


def lora_config() -> Any:
    """PEFT's, of the adapter that mixalign trains by default."""
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def make_trainer(
    kind: str,
    variant: str,
    model_path: str,
    rows: Sequence[dict[str, list[int]]],
    *,
    batch_size: int,
    steps: int,
    device: str,
    fp32: bool,
    reference_path: str | None = None,
    trainer_class: Any = None,
    peft_config: Any = None,
    dataset: Dataset | None = None,
    **settings: Any,
) -> Any:
    """A trainer of TRL that sees the rows in their order, or in TRL's groups of similar length.

    Args:
        kind: `dpo` or `sft`.
        variant: a key of VARIANTS.
        reference_path: a reference policy other than the model itself.
        trainer_class: in place of TRL's own.
        peft_config: of an adapter that is trained in place of the model.
        dataset: the rows as TRL is to read them; None: one word a token.
        settings: further arguments of TRL's config.
    """
    config_class, usual = TRAINERS[kind]
    config = config_class(
        output_dir=tempfile.mkdtemp(prefix="trl-"),
        per_device_train_batch_size=batch_size,
        max_steps=steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        bf16=not fp32,
        use_cpu=device == "cpu",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **VARIANTS[kind][variant] | settings,
    )
    references = {}
    if reference_path:
        references["ref_model"] = AutoModelForCausalLM.from_pretrained(reference_path, dtype=torch.float32)
    return (trainer_class or usual)(
        model=AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32),
        args=config,
        train_dataset=dataset or _dataset(kind, rows, lengths=variant == "best"),
        processing_class=AutoTokenizer.from_pretrained(model_path),
        peft_config=peft_config,
        **references,
    )


def _dataset(kind: str, rows: Sequence[dict[str, list[int]]], lengths: bool) -> Dataset:
    """Rows as text, one word a token; with a column `length` for grouping."""
    names = {"chosen": "chosen", "rejected": "rejected"} if kind == "dpo" else {"chosen": "completion"}
    made = []
    for row in rows:
        line: dict[str, Any] = {name: _text(row[side]) for side, name in names.items()}
        line["prompt"] = _text(row["prompt"]) + " "
        if lengths:
            line["length"] = len(row["prompt"]) + max(len(row[side]) for side in names)
        made.append(line)
    return Dataset.from_list(made)


def _text(ids: Sequence[int]) -> str:
    return " ".join("</s>" if i == 2 else f"w{i}" for i in ids)


class _Ticks(TrainerCallback):
    def __init__(self, clock: StepClock) -> None:
        self.clock = clock

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.tick()


def train(trainer: Any, clock: StepClock) -> list[int]:
    """Trains, and returns the real tokens of every step's batch."""
    tokens: list[int] = []
    collate = trainer.data_collator

    def counting(examples: Any) -> Any:
        batch = collate(examples)
        mask = batch.get("attention_mask")
        tokens.append(int(batch["input_ids"].numel() if mask is None else mask.sum()))
        return batch

    trainer.data_collator = counting
    trainer.add_callback(_Ticks(clock))
    trainer.train()
    return tokens


def one_batch_loss(trainer: Any, batch_size: int) -> float:
    """TRL's loss of the first rows."""
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(batch_size)])
    batch = {k: v.to(trainer.accelerator.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    trainer.model.to(trainer.accelerator.device)
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, batch))
