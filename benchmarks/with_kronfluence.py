"""The kronfluence side of `influence.py`: factors and scores of the same rows, padded, in an environment of its own."""

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from kronfluence.utils.dataset import DataLoaderKwargs
from torch import Tensor
from transformers import AutoModelForCausalLM

__all__ = ["scores"]

IGNORED = -100
Rows = Sequence[dict[str, list[int]]]


class NextToken(Task):
    """Mean cross-entropy over the tokens of a completion, summed over rows; drawn labels as mixalign has them."""

    def __init__(self, modules: list[str]) -> None:
        self.modules = modules

    def compute_train_loss(self, batch: dict[str, Tensor], model: Any, sample: bool = False) -> Tensor:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        logits, labels = logits[:, :-1].float(), batch["labels"][:, 1:]
        count = (labels != IGNORED).sum(1, keepdim=True)
        if sample:
            kept = (labels != IGNORED).nonzero(as_tuple=True)
            labels = labels.clone()
            with torch.no_grad():
                labels[kept] = torch.multinomial(logits[kept].softmax(-1), 1)[:, 0]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return (loss.view(labels.shape) / (count.sqrt() if sample else count)).sum()

    def compute_measurement(self, batch: dict[str, Tensor], model: Any) -> Tensor:
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self) -> list[str]:
        return self.modules

    def get_attention_mask(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["attention_mask"]


def scores(
    path: str,
    domains: Rows,
    targets: Rows,
    strategy: str,
    precision: str,
    empirical: bool,
    num_domains: int,
    batch_size: int,
) -> tuple[list[float], dict[str, float]]:
    """Each domain's score for the targets, and the CPU seconds of each phase.

    Args:
        domains: row n is of domain `n % num_domains`.
    """
    logging.disable(logging.WARNING)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    names = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    task = NextToken(names)
    order = sorted(range(len(domains)), key=lambda n: -_length(domains[n]))
    train, query = [domains[n] for n in order], sorted(targets, key=_length, reverse=True)
    amp = torch.bfloat16 if precision == "bf16-mixed" else None
    spent: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            "run", prepare_model(model, task), task, cpu=True, output_dir=folder, disable_tqdm=True, log_level=50
        )
        analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=_padded))
        how = FactorArguments(strategy=strategy, use_empirical_fisher=empirical, amp_dtype=amp)
        read = {"dataset": _Rows(train), "per_device_batch_size": batch_size, "factor_args": how}
        factors = {"factors_name": "all", "overwrite_output_dir": True}
        _time(spent, "fit", lambda: analyzer.fit_covariance_matrices(**factors, **read))
        _time(spent, "eigenvectors", lambda: analyzer.perform_eigendecomposition(**factors, factor_args=how))
        if strategy == "ekfac":
            _time(spent, "lambda", lambda: analyzer.fit_lambda_matrices(**factors, **read))
        ask = ScoreArguments(damping_factor=None, aggregate_query_gradients=True, amp_dtype=amp)
        pairs: dict[str, Any] = {
            "scores_name": "all",
            "factors_name": "all",
            "query_dataset": _Rows(query),
            "train_dataset": _Rows(train),
            "per_device_query_batch_size": batch_size,
            "per_device_train_batch_size": batch_size,
            "score_args": ask,
            "overwrite_output_dir": True,
        }
        _time(spent, "scores", lambda: analyzer.compute_pairwise_scores(**pairs))
        score_N = analyzer.load_pairwise_scores("all")["all_modules"][0].double().numpy()
    domain_N = np.array(order) % num_domains
    found = [float(score_N[domain_N == k].mean()) / len(query) for k in range(num_domains)]
    return found, {"seconds": sum(spent.values())} | spent


class _Rows(torch.utils.data.Dataset):
    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, list[int]]:
        return self.rows[number]


def _length(row: dict[str, list[int]]) -> int:
    return len(row["prompt"]) + len(row["chosen"])


def _padded(rows: Rows) -> dict[str, Tensor]:
    width = max(map(_length, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for number, row in enumerate(rows):
        length, prompt = _length(row), len(row["prompt"])
        ids[number, :length] = torch.tensor(row["prompt"] + row["chosen"])
        mask[number, :length] = 1
        labels[number, prompt:length] = torch.tensor(row["chosen"])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _time(spent: dict[str, float], name: str, run: Callable[[], Any]) -> None:
    began = time.process_time()
    run()
    spent[name] = time.process_time() - began
