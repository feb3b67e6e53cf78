"""Saves a dashboard for runs in W&B: --entity NAME --project NAME [--name NAME]."""

import argparse

from mixalign.config.console import quiet_libraries
from mixalign.output import say
from mixalign.sharing.dashboard import build_workspace, save_workspace

__all__ = ["main"]


def main() -> None:
    """`mixalign dashboard` with what stands behind it on the command line."""
    quiet_libraries()
    parser = argparse.ArgumentParser(
        "mixalign dashboard",
        description="A view of a W&B project: weights stacked, excess, the worst task, mixers compared.",
    )
    parser.add_argument("--entity", required=True, help="user or team of W&B")
    parser.add_argument("--project", default="mixalign", help="as logger.wandb.project (default: mixalign)")
    parser.add_argument("--name", default="mixalign", help="of the view")
    args = parser.parse_args()
    say(f"dashboard: {save_workspace(build_workspace(args.entity, args.project, args.name))}")
