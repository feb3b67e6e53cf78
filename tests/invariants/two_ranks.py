"""Trains the small job on some processes of one machine and saves what each of them saw: `two_ranks.py N folder`.

A script, because Lightning starts the other processes by running the main program again.
"""

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mixalign.mixers.ama_r import AMAR
from mixalign.mixers.ama_s import AMAS
from mixalign.mixers.group_dro import GroupDRO

CASES = {
    "ama_r": (AMAR(eta=0.5), None),
    "ama_r accumulated": (AMAR(eta=0.5), 2),
    "ama_r clipped by task": (AMAR(eta=0.5, clip="task"), None),
    "ama_s": (AMAS(eta=0.5), None),
    "group_dro accumulated": (GroupDRO(eta=0.5), 1),
}


SETTINGS = {"steps": 6, "batch_size": 8, "val_every": 3, "eval_batch_size": 4, "lr": 1e-3}


def prepare(make_job: Callable):
    """Nine validation rows in batches of four: two batches on the first of two processes, and one on the other."""
    return make_job(validation_rows=3, dtype=torch.float64)


def keeper(folder: Path) -> ModelCheckpoint:
    """Saves at each validation, and compares what it watches."""
    return ModelCheckpoint(
        folder, "at{step}", monitor="eval/worst_excess", save_top_k=-1, auto_insert_metric_name=False
    )


def main(devices: int, folder: Path, make_job: Callable) -> None:
    job = prepare(make_job)
    out, rank = {}, 0
    for name, (mixer, micro) in CASES.items():
        keep = keeper(folder / f"{devices} ranks" / name)
        options = {"devices": devices, "strategy": "ddp" if devices > 1 else "auto"}
        run = job.run(folder, mixer, micro=micro, **SETTINGS, callbacks=[keep], trainer_options=options)
        rank = run.trainer.global_rank
        assert run.trainer.world_size == devices
        out[name] = {
            "weights": run.weights(),
            "alphas": torch.stack(run.seen.alphas),
            "losses": run.seen.losses(),
            "evaluation": run.module.evaluation,
            "grads": run.seen.grads,
            "summary": run.mixing.summary(run.data.sampler),
            "best": Path(keep.best_model_path).name,
        }
    torch.save(out, folder / f"rank{rank}of{devices}.pt")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import conftest

    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    main(int(sys.argv[1]), Path(sys.argv[2]), conftest.make_job)
