"""Trains one specialist a task, and keeps them in the cache."""

from mixalign.config.command_line import NO_FOLDER, with_settings
from mixalign.config.settings import RunSettings
from mixalign.frozen.scored import scored
from mixalign.frozen.specialists import find_folds
from mixalign.frozen.worse import warn_of_useless
from mixalign.jobs.job import prepare
from mixalign.terminal import Column, say_result, table_text
from mixalign.together.agree import is_first
from mixalign.together.start import on_all_ranks

__all__ = ["main", "run"]


def main() -> None:
    """`mixalign specialists` with what stands behind it on the command line."""
    with_settings(run, *NO_FOLDER)


@on_all_ranks
def run(settings: RunSettings) -> None:
    """Trains the specialists that are missing, scores every row, and prints their losses in nats."""
    job, reference = scored(prepare(settings), train=True)
    warn_of_useless(job, reference)
    if not is_first():
        return
    places = [[model.place for model in models] for models in find_folds(job, reference).values()]
    rows = [
        [
            task,
            *(f"{tables[k].mean(tables[k].columns['specialist_loss']):.3f}" for tables in job.data.values()),
            ", ".join(place.name for place in places[k]),
        ]
        for k, task in enumerate(job.tasks)
    ]
    columns: list[str | Column] = ["task", *job.data, Column("folder", text=True)]
    say_result(
        table_text(columns, rows, title="Specialists: mean loss in nats", note=f"folders in {places[0][0].parent}")
    )
