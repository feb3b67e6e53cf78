"""A dashboard of W&B for runs of mixalign: task weights stacked, excess, the worst task, and mixers side by side."""

from typing import Any

from mixalign.errors import MixalignError

__all__ = ["build_workspace", "save_workspace"]

STEP = "trainer/global_step"
NEEDS = "`mixalign dashboard` needs the package wandb-workspaces: `pip install wandb-workspaces`."


def build_workspace(entity: str, project: str, name: str = "mixalign") -> Any:
    """A workspace with a section for each question; nothing is sent.

    Panels find tasks by the prefix of the metrics, so that it serves every set of tasks. Runs are grouped by mixer.

    Args:
        entity: the user or team.
        name: of the view.

    Raises:
        MixalignError: when wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise MixalignError(NEEDS) from error

    sections = _panels(wr)
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[ws.Section(name=title, panels=panels, is_open=True) for title, panels in sections.items()],
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Config("mixer.name")], order=[ws.Ordering(ws.Summary("test/worst_excess"), ascending=True)]
        ),
    )


def _panels(wr: Any) -> dict[str, list[Any]]:
    """Panels by the name of their section.

    Args:
        wr: the module that makes them.
    """

    def lines(title: str, pattern: str, **more: Any) -> Any:
        return wr.LinePlot(title=title, x=STEP, metric_regex=pattern, **more)

    def bars(title: str, metric: str) -> Any:
        return wr.BarPlot(title=title, metrics=[metric], groupby=wr.Config("mixer.name"))

    mixture = [
        lines("task weights, stacked", "^alpha/.*", plot_type="pct-area", aggregate=False),
        lines("task weights", "^alpha/.*"),
        lines("share of the rows seen", "^share/.*"),
        wr.MediaBrowser(media_keys=["mixture_path"]),
    ]
    tasks = [
        lines("excess in validation", "^eval_excess/.*"),
        lines("excess in training", "^excess/.*"),
        lines("loss in validation", "^eval_loss/.*"),
        wr.LinePlot(title="specialists", x="specialist_step", metric_regex="^specialist_loss/.*"),
    ]
    worst = [
        wr.LinePlot(
            title="worst excess in validation", x=STEP, y=["eval/worst_excess"], groupby=wr.Config("mixer.name")
        ),
        bars("worst excess, test rows", "test/worst_excess"),
        bars("worst loss, test rows", "test/worst_loss"),
        bars("mean loss, test rows", "test/mean_loss"),
        wr.RunComparer(diff_only=True),
    ]
    return {"Mixers compared": worst, "Mixture": mixture, "Tasks": tasks}


def save_workspace(workspace: Any) -> str:
    """Saves a workspace in W&B; gives its address.

    Raises:
        MixalignError: without an account, or when W&B refuses.
    """
    import wandb

    try:
        workspace.save()
    except wandb.errors.UsageError as error:
        raise MixalignError(
            f"Saving a dashboard needs an account of W&B ({error}) `wandb login`, or set WANDB_API_KEY."
        ) from error
    except Exception as error:  # of the network, or of W&B's answer
        raise MixalignError(
            f"W&B did not save the dashboard of {workspace.entity}/{workspace.project}: {type(error).__name__}: "
            f"{' '.join(str(error).split())} Look at --entity and --project, and whether the network is there."
        ) from error
    return str(workspace.url)
