"""Names of settings in transformers, TRL, PEFT and Lightning, and what they are called here."""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

from mixalign.errors import did_you_mean

__all__ = ["FOREIGN", "NEAR", "meant"]

NEAR = 0.8  # likeness from which a misspelt name is taken for one of another place

_ROWS = "`micro_batch_size`, rows of one forward pass on one process; `batch_size` has the rows of all of a step"
_ACCUMULATE = "`micro_batch_size`: a step accumulates `batch_size` over it and the processes"
_PRECISION = "`trainer.precision`, as in trainer.precision=bf16-mixed"
_LENGTH = "`data.max_length`, tokens of prompt and completion"
_MODEL = "`model.path`, as in model=pretrained model.path=FOLDER"
_ROOT = "`data.root`, as in data=local data.root=FOLDER, or data.tasks.<name>.path"
_KEPT = "`export`, which names the weights that are kept"
_ADAPTER = "`lora`, as in lora=default"

FOREIGN = {
    "learning_rate": "`optimizer.lr`",
    "num_train_epochs": "`epochs`",
    "max_epochs": "`epochs`",
    "max_steps": "`steps`",
    "per_device_train_batch_size": _ROWS,
    "per_gpu_train_batch_size": _ROWS,
    "train_batch_size": "`batch_size`",
    "global_batch_size": "`batch_size`",
    "per_device_eval_batch_size": "`eval_batch_size`",
    "per_gpu_eval_batch_size": "`eval_batch_size`",
    "gradient_accumulation_steps": _ACCUMULATE,
    "accumulate_grad_batches": _ACCUMULATE,
    "warmup_ratio": "`optimizer.warmup_steps`, below 1 a share of the steps",
    "num_warmup_steps": "`optimizer.warmup_steps`",
    "lr_scheduler_type": "`optimizer.schedule`",
    "lr_scheduler": "`optimizer.schedule`",
    "adam_beta1": "`optimizer.betas`, a list of two",
    "adam_beta2": "`optimizer.betas`, a list of two",
    "adam_epsilon": "`optimizer.eps`",
    "gradient_clip_val": "`optimizer.max_grad_norm`",
    "max_norm": "`optimizer.max_grad_norm`",
    "output_dir": "`run_dir`",
    "default_root_dir": "`run_dir`",
    "run_name": "`name`",
    "logging_steps": "`log_every`",
    "log_every_n_steps": "`log_every`",
    "eval_steps": "`val_every`",
    "val_check_interval": "`val_every`",
    "save_steps": "`save_every`",
    "report_to": "`logger`, as in logger=wandb",
    "resume_from_checkpoint": "`resume`; the same `run_dir` goes on by itself",
    "load_best_model_at_end": _KEPT,
    "metric_for_best_model": _KEPT,
    "data_seed": "`data.seed`",
    "random_seed": "`seed`",
    "bf16": _PRECISION,
    "fp16": _PRECISION,
    "use_bf16": _PRECISION,
    "torch_dtype": "`model.dtype`",
    "torch_compile": "`engine.compile`",
    "packing": "`engine.layout`",
    "max_seq_length": _LENGTH,
    "max_seq_len": _LENGTH,
    "model_max_length": _LENGTH,
    "cutoff_len": _LENGTH,
    "max_prompt_length": _LENGTH,
    "loss_type": "`objective.loss`",
    "model_name_or_path": _MODEL,
    "pretrained_model_name_or_path": _MODEL,
    "base_model": _MODEL,
    "dataset_name": _ROOT,
    "dataset": _ROOT,
    "train_file": _ROOT,
    "use_peft": _ADAPTER,
    "peft_config": _ADAPTER,
    "lora_r": "`lora.r`",
    "lora_rank": "`lora.r`",
    "rank": "`lora.r`",
    "lora_target_modules": "`lora.target_modules`",
}
"""Name -> what to set here; the first word in backquotes is a key."""


def meant(name: str, known: Iterable[str]) -> str:
    """A sentence on what may be meant by a name that a part of the configuration does not have.

    Args:
        known: names that it has.
    """
    if (here := FOREIGN.get(name)) is not None:
        return f"It is {here} here."
    known = [*known]
    begun = any(own.startswith(name) for own in known)
    theirs = [] if begun else get_close_matches(name, FOREIGN, 1, NEAR)
    if theirs and all(_likeness(name, own) < _likeness(name, theirs[0]) for own in known):
        return f"Did you mean `{theirs[0]}`? It is {FOREIGN[theirs[0]]} here."
    return did_you_mean(name, known)


def _likeness(name: str, other: str) -> float:
    return SequenceMatcher(None, name, other).ratio()
