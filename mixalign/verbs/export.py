"""Writes a trained model for others: RUN --out FOLDER [--adapter] [--dtype bf16] [--push ORG/NAME]."""

import argparse
import sys
from pathlib import Path

from mixalign.config.compose import register_resolvers
from mixalign.config.console import quiet_libraries
from mixalign.reporting.show.card import filled_in
from mixalign.runs.portable import where_it_began
from mixalign.sharing.export import DTYPES, How, export_model
from mixalign.sharing.find import find_model
from mixalign.sharing.hub import check_push, push_folder
from mixalign.terminal import say_result, wrap

__all__ = ["main", "run"]

TEXT = """Writes a folder that transformers, PEFT and vLLM load: weights in
safetensors, tokenizer, chat template, configuration and a model card."""


def main() -> None:
    """`mixalign export` with what stands behind it on the command line."""
    quiet_libraries()
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("mixalign export", description=TEXT, formatter_class=style)
    add = parser.add_argument
    add("run", type=Path, help="a run, its model/, a merge, or a specialist of the cache")
    add("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    add("--adapter", action="store_true", help="the adapter itself; default: one model of it and its base")
    add("--dtype", choices=list(DTYPES), help="of the weights; default: as in the training (model.dtype, mostly fp32)")
    add("--max-shard-size", default="5GB", metavar="SIZE", help="of one file of weights; default: 5GB")
    add("--base-model", metavar="ORG/NAME", help="the base's id on the hub, where the run was given a folder")
    add("--license", metavar="ID", help="for the card, as apache-2.0; default: the card asks for it")
    add("--push", metavar="ORG/NAME", help="upload the folder to the Hugging Face hub")
    private = argparse.BooleanOptionalAction
    add("--private", action=private, default=True, help="a repository that --push makes; default: private")
    given = vars(parser.parse_args())
    path, out, push, private = (given.pop(key) for key in ("run", "out", "push", "private"))
    run(path, out, How(name=push, **given), push, private)


def run(path: Path, out: Path, how: How, push: str | None = None, private: bool = True) -> None:
    """Exports a model into a new folder, and uploads that to the hub.

    Args:
        push: the repository on the hub; None: nothing is uploaded.
        private: whether a repository that is made now is.

    Raises:
        MixalignError: when there is no such model, it is not finished, the folder is taken, or the hub refuses.
    """
    register_resolvers()
    path, out = path.absolute(), out.absolute()
    found = find_model(path)
    if push:
        check_push(push, found, how.adapter, how.base_model)
    with where_it_began(found.run or found.folder):
        what = export_model(found, out, how)
    lines = [f"exported: {out} ({what})", "Its README.md is the model card."]
    if filled_in(out)[0] is None:
        lines[-1] += " It asks for a license: --license, or a line at its top."
    if sys.stdout.isatty():
        lines = [wrap(line) for line in lines]
    if not how.adapter:
        lines.append(f"It is served by: vllm serve {out}")
    if push:
        lines.append(f"pushed: {push_folder(out, push, private)}")
    say_result("\n".join(lines))
