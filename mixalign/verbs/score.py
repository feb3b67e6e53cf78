"""Scores every row with the frozen models, for the cache."""

from mixalign.config.command_line import NO_FOLDER, with_settings
from mixalign.config.settings import RunSettings
from mixalign.frozen.scored import scored
from mixalign.jobs.job import prepare
from mixalign.terminal import Column, say_result, table_text
from mixalign.together.agree import is_first
from mixalign.together.start import on_all_ranks

__all__ = ["main", "run"]


def main() -> None:
    """`mixalign score` with what stands behind it on the command line."""
    with_settings(run, *NO_FOLDER)


@on_all_ranks
def run(settings: RunSettings) -> None:
    """Scores every row under the reference policy, and under its task's specialist where those are trained."""
    job, _ = scored(prepare(settings))
    if not is_first():
        return
    rows = [
        [table.task, split, f"{len(table):,}", ", ".join(table.columns) or "none"]
        for _, split, table in job.all_datasets
    ]
    has_specialists = "specialist_loss" in job.data["train"][0].columns
    note = "" if has_specialists else "no specialists yet: `mixalign specialists` trains them"
    say_result(table_text(["task", Column("split", text=True), "rows", Column("columns", text=True)], rows, note=note))
