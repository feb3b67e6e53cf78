"""A plan as plain data, for JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mixalign.data.read.columns import ColumnUse
from mixalign.data.tokens.tokenise import TokenCounts
from mixalign.planning.plan import Plan, PlanRow
from mixalign.planning.rows import ShownRow, Side

__all__ = ["as_plain"]


def as_plain(plan: Plan, counts: Sequence[tuple[str, TokenCounts]] = (), logged: Sequence[str] = ()) -> dict[str, Any]:
    """Everything that a plan says, with the texts of rows uncut.

    Args:
        counts: (split, what tokenisation kept), one entry a task and split.
        logged: what was warned of while rows were read; comes before the plan's own warnings.
    """
    return {
        "mixer": plan.mixer,
        "objective": plan.objective,
        "steps": plan.steps,
        "batch_size": plan.batch_size,
        "mixture": plan.note,
        "tasks": [_task(plan, row, counts) for row in plan.rows],
        "held_out": plan.held,
        "stages": plan.stages,
        "estimate": asdict(plan.estimate) if plan.estimate else None,
        "chosen": plan.chosen,
        "warnings": [*logged, *plan.warnings],
    }


def _task(plan: Plan, row: PlanRow, counts: Sequence[tuple[str, TokenCounts]]) -> dict[str, Any]:
    task = row.counts.task
    use = plan.columns.get(task, ColumnUse())
    return {
        "task": task,
        "splits": {split: _counts(c) for split, c in counts if c.task == task},
        "duplicates": row.duplicates,
        "validation_rows": row.validation,
        "share": {"rows": row.sample, "tokens": row.token_share, "supervised_tokens": row.supervised_share},
        "epochs": row.epochs,
        "epochs_if_all": row.epochs_if_all,
        "columns": {"used": use.used, "unused": use.unused, "declared_unused": use.declared},
        "rows": [_row(shown) for shown in plan.shown.get(task, [])],
    }


def _counts(counts: TokenCounts) -> dict[str, int]:
    return {name: value for name, value in asdict(counts).items() if name != "task"}


def _row(row: ShownRow) -> dict[str, Any]:
    return {
        "row": row.number,
        "tokens": row.tokens,
        "supervised_tokens": row.learned_tokens,
        "label": row.label,
        "weight": row.weight,
        "prompt": {"text": row.prompt.text, "tokens": row.prompt.tokens},
        "answers": [_side(side) for side in row.answers],
    }


def _side(side: Side) -> dict[str, Any]:
    return {
        "name": side.name,
        "text": side.text,
        "tokens": side.tokens,
        "supervised_tokens": side.learned_tokens,
        "learned": [span.text for span in side.spans if span.learned],
        "spans": [{"text": s.text, "tokens": s.tokens, "learned": s.learned} for s in side.spans],
    }
