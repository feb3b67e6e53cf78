"""Answers that the start model and a trained one generate to held-out prompts, and their scores."""

import gc
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mixalign.bars import progress
from mixalign.data.prompts import Prompt, end_tokens, some_prompts
from mixalign.data.scorers import score_answer
from mixalign.errors import MixalignError
from mixalign.files import read_json, write_json, write_text
from mixalign.fingerprint import fingerprint
from mixalign.frozen.cache import Frozen, load_frozen
from mixalign.jobs.job import Job
from mixalign.models.generate import generate_answers
from mixalign.runs.summary import write_results
from mixalign.runs.wandb_run import log_to_wandb
from mixalign.stopping import stage
from mixalign.together.agree import decide, is_first, rank, total, wait, world
from mixalign.together.locks import made_once

__all__ = ["Generations", "scored_result", "with_generations"]

log = logging.getLogger(__name__)
BATCH = 64  # prompts at a time, at most
SCORES = ("score_before", "score")


@dataclass(frozen=True)
class Generations:
    """The prompts of a job whose answers are generated, and what the start model answers.

    Attributes:
        split: whose rows are asked.
        prompts: those of each task.
        ends: tokens at which an answer ends.
        before: token ids of the start model's answers, in the order of all prompts.
    """

    job: Job
    split: str
    prompts: list[list[Prompt]]
    ends: list[int]
    before: list[list[int]]

    @classmethod
    def of(cls, job: Job, reference: Frozen, split: str) -> "Generations | None":
        """Chooses prompts, and has the start model answer them, or reads its answers from the cache.

        Returns:
            None when the settings want nothing generated.

        Raises:
            MixalignError: when prompts and answers are longer than the model's positions.
        """
        settings = job.settings
        if not settings.eval.generate:
            return None
        prompts = [some_prompts(table, settings.eval.generate, settings.data.seed) for table in job.data[split]]
        asked = cls(job, split, prompts, _ends(job, prompts), [])
        asked._warn_of_missing()
        recipe = {
            "stage": "generation",
            "model": reference.identity,
            "prompts": hashlib.sha256(
                b"/".join(p.ids.astype(np.int32).tobytes() for p in asked.all_prompts)
            ).hexdigest(),
            "ends": asked.ends,
            "precision": job.precision,
            "seed": settings.data.seed,
            **{key: value for key, value in asked._settings.items() if key != "generate"},
        }
        path = job.cache / "generations" / f"{fingerprint(recipe)}.json"
        with made_once(path, job.cache / "locks") as missing:
            if missing:
                answers = asked.answers(reference.build, "answers of the start")
                if is_first():
                    write_json(path, {"recipe": recipe, "answers": answers})
        return cls(job, split, prompts, asked.ends, read_json(path)["answers"])

    @cached_property
    def all_prompts(self) -> list[Prompt]:
        return [prompt for prompts in self.prompts for prompt in prompts]

    @property
    def how(self) -> dict[str, Any]:
        """What `eval.json` says of how answers were generated."""
        given = {task: spec.scorer for task, spec in self.job.settings.data.tasks.items() if spec and spec.scorer}
        return self._settings | {"split": self.split} | ({"scorers": given} if given else {})

    @property
    def _settings(self) -> dict[str, Any]:
        """Those of `eval` that decide answers."""
        return {key: value for key, value in asdict(self.job.settings.eval).items() if key != "start"}

    def answers(self, build: Callable[[], nn.Module], title: str) -> list[list[int]]:
        """Token ids of a model's answers to all prompts, by all processes together."""
        job, asked = self.job, [prompt.ids for prompt in self.all_prompts]
        order = sorted(range(len(asked)), key=lambda n: -len(asked[n]))
        size = min(BATCH, job.eval_batch_size)
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        mine = [n for batch in batches[rank() :: world()] for n in batch]
        model: Any = build().to(job.device)
        self._check_positions(model)
        job.course.enter(title)
        shown = progress(job.course.title(title), len(asked), "answers", disabled=not job.settings.progress)
        with stage(f"the generation of {title}"), shown as bar:
            made = generate_answers(
                model,
                [asked[n] for n in mine],
                pad=job.tokenizer.pad_token_id,
                ends=self.ends,
                max_new_tokens=job.settings.eval.max_new_tokens,
                temperature=job.settings.eval.temperature,
                seed=job.settings.data.seed,
                batch_size=size,
                precision=job.precision,
                on_batch=lambda done: bar.advance(done * world()),
            )
        del model
        gc.collect()
        return _gathered(len(asked), dict(zip(mine, made, strict=True)), job.settings.eval.max_new_tokens)

    def rows(self, after: Sequence[list[int]]) -> list[dict[str, Any]]:
        """One entry a prompt: what was asked, the row's answer, both generated ones and their scores.

        Args:
            after: token ids of the trained model's answers, in the order of all prompts.
        """
        read, rows = self.job.tokenizer.decode, []
        pairs = iter(zip(self.before, after, strict=True))
        for task, prompts in zip(self.job.tasks, self.prompts, strict=True):
            for prompt, given in zip(prompts, pairs, strict=False):
                answer, *texts = (
                    str(read(ids, skip_special_tokens=True)).strip() for ids in (prompt.answer_ids, *given)
                )
                row: dict[str, Any] = {
                    "task": task,
                    "row": prompt.row + 1,
                    "prompt": str(read(prompt.ids)),
                    "answer": answer,
                }
                row |= dict(zip(("before", "after"), texts, strict=True))
                if (scorer := self.job.scorers.get(task)) is not None:
                    scores = [score_answer(task, scorer, row["prompt"], answer, text) for text in texts]
                    row |= dict(zip(SCORES, scores, strict=True))
                rows.append(row)
        return rows

    def _warn_of_missing(self) -> None:
        if bare := [f"`{task}`" for task, found in zip(self.job.tasks, self.prompts, strict=True) if not found]:
            log.warning("Nothing is generated for %s: their rows are learned from the first token on.", ", ".join(bare))
        if not self.all_prompts:
            raise MixalignError("`eval.generate` needs rows with a prompt, and no task has any. Set it to 0.")

    def _check_positions(self, model: Any) -> None:
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        longest, new = max(len(p.ids) for p in self.all_prompts), self.job.settings.eval.max_new_tokens
        if isinstance(positions, int) and 0 < positions < longest + new:
            raise MixalignError(
                f"`eval.max_new_tokens` is {new}, behind prompts of up to {longest} tokens, but the model has "
                f"{positions} positions. Lower it to {max(1, positions - longest)} or less, or `data.max_length`."
            )


def _ends(job: Job, prompts: Sequence[Sequence[Prompt]]) -> list[int]:
    """Where answers end: where those of the rows do, and at the tokenizer's end of text."""
    found = set(end_tokens([prompt for of_task in prompts for prompt in of_task], job.tokenizer))
    return sorted(found | ({job.tokenizer.eos_token_id} - {None}))


def _gathered(number: int, mine: Mapping[int, list[int]], longest: int) -> list[list[int]]:
    """The answers of all processes."""
    if world() == 1:
        return [mine[n] for n in range(number)]
    ids_NT = torch.zeros(number, longest, dtype=torch.int64)
    for n, ids in mine.items():
        ids_NT[n, : len(ids)] = torch.tensor(ids, dtype=torch.int64) + 1  # 0: no token
    return [[token - 1 for token in row if token] for row in total(ids_NT).tolist()]


def with_generations(
    asked: Generations | None, reference: Frozen, folder: Path, results: str = "eval.json"
) -> dict[str, Any]:
    """The results of a run, with the scores of what its model generates; the answers go to a file beside them.

    What is there already is not made again.

    Args:
        asked: None: nothing is generated, and the results stay as they are.
        folder: of the run, with `model/`.
        results: name of its results: what `eval_test.json` says of has its answers in `generations_test.jsonl`.
    """
    path, samples = folder / results, folder / results.replace("eval", "generations").replace(".json", ".jsonl")
    result, has_samples = decide(lambda: (read_json(path), samples.is_file()))
    if asked is None or (has_samples and result.get("generation") == asked.how):
        return result
    rows = asked.rows(asked.answers(lambda: load_frozen(folder / "model", reference), "answers of the result"))
    result = scored_result(result, rows) | {"generation": asked.how}
    if is_first():
        write_text(samples, "".join(json.dumps(row) + "\n" for row in rows))
        write_results(path, result)
        log_to_wandb(asked.job.settings, folder, result, rows)
        log.info("answers before and after: %s", samples)
    wait()
    return result


def scored_result(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Results with the mean score of each task before and after, their mean over tasks, and the worst task's."""
    tasks = {task: dict(row) for task, row in result["tasks"].items()}
    mean, worst = dict(result["mean"]), dict(result["worst"])
    for name in SCORES:
        by_task = {task: [row[name] for row in rows if row["task"] == task and name in row] for task in tasks}
        means = {task: float(np.mean(scores)) for task, scores in by_task.items() if scores}
        for task, value in means.items():
            tasks[task] |= {name: value, "generated": len(by_task[task])}
        if means:
            mean[name] = float(np.mean(list(means.values())))
            task = min(means, key=lambda one: means[one])
            worst[name] = {"task": task, "value": means[task]}
    return {**result, "tasks": tasks, "mean": mean, "worst": worst}
