"""Tasks of lm-evaluation-harness (https://github.com/EleutherAI/lm-evaluation-harness), on a model in memory."""

import logging
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from mixalign.errors import MixalignError
from mixalign.stopping import stage

__all__ = ["require_harness", "run_harness"]

INSTALL = "pip install 'mixalign[lm-eval]'"


def require_harness() -> None:
    """Refuses to go on without the harness.

    Raises:
        MixalignError: with the command that installs it.
    """
    try:
        import lm_eval.models.huggingface
        import lm_eval.tasks  # noqa: F401
    except ImportError as error:
        raise MixalignError(
            f"--lm-eval needs lm-evaluation-harness, which cannot be imported ({error}). Install it: {INSTALL}."
        ) from error


def run_harness(
    model: nn.Module,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    chat: bool,
    include: Path | None = None,
    limit: int | None = None,
    batch_size: int = 8,
) -> dict[str, Any]:
    """Evaluates a model on tasks of the harness.

    Args:
        chat: whether prompts are written by the tokenizer's chat template, as in the model's training.
        include: a folder with task files of one's own; those whose rows are local need no network.
        limit: rows a task, at most.

    Returns:
        `tasks`: task -> metric -> value, a filter's name behind the metric's (`exact_match,strict`), errors as
        `<metric>_stderr`, and `rows`; `chat_template`, `limit`, and the harness's `version`.

    Raises:
        MixalignError: when a task is unknown, or its rows cannot be had.
    """
    from lm_eval import __version__

    manager = _manager(tasks, include)
    with stage("the tasks of lm-evaluation-harness"):
        try:
            found = _evaluated(model, tokenizer, tasks, manager, chat, limit, batch_size)
        except (OSError, ConnectionError, ValueError) as error:  # of datasets: no network, no such rows
            reason = " ".join(str(error).split())[:300]
            raise MixalignError(
                f"--lm-eval {','.join(tasks)} failed: {reason} Where the hub cannot be reached, give task files whose "
                "rows are local, by --lm-eval-path."
            ) from error
    rows = {task: counts.get("effective") for task, counts in (found.get("n-samples") or {}).items()}
    return {
        "tasks": {task: _numbers(values, rows.get(task)) for task, values in found["results"].items()},
        "chat_template": chat,
        "limit": limit,
        "version": str(__version__),
    }


def _manager(tasks: Sequence[str], include: Path | None) -> Any:
    """The harness's tasks, of which all that are wanted are known."""
    from lm_eval.tasks import TaskManager

    if include is not None and not include.is_dir():
        raise MixalignError(f"--lm-eval-path: there is no folder {include}. Give the one with the task files.")
    manager = TaskManager(include_path=include)
    for task in tasks:
        if not manager.match_tasks([task]):
            near = get_close_matches(task, manager.all_tasks, 1)
            raise MixalignError(
                f"--lm-eval: the harness knows no task `{task}`.{f' Did you mean `{near[0]}`?' if near else ''} "
                "`lm-eval ls tasks` lists those that come with it; --lm-eval-path names a folder of your own."
            )
    return manager


def _evaluated(
    model: nn.Module, tokenizer: Any, tasks: Sequence[str], manager: Any, chat: bool, limit: int | None, size: int
) -> dict[str, Any]:
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval.models.huggingface").setLevel(logging.ERROR)  # it warns of models in memory
    live: Any = model
    found: Any = lm_eval.simple_evaluate(
        model=HFLM(pretrained=live, tokenizer=tokenizer, batch_size=size),
        tasks=list(tasks),
        task_manager=manager,
        apply_chat_template=chat,
        limit=limit,
        bootstrap_iters=1000,
        log_samples=False,
    )
    return dict(found)


def _numbers(values: Mapping[str, Any], rows: int | None) -> dict[str, float | int]:
    found: dict[str, float | int] = {} if rows is None else {"rows": rows}
    for name, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and "," in name:
            found[name.removesuffix(",none")] = float(value)
    return found
