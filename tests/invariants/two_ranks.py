"""Trains the small job on some processes of one machine and saves what each of them saw: `two_ranks.py N folder part`.

The parts are functions below: `main` for test_ranks.py, and the others for test_sharded.py.

A script, because Lightning starts the other processes by running the main program again.
"""

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from mixalign.errors import MixalignError
from mixalign.mixers.ama_r import AMAR
from mixalign.mixers.ama_s import AMAS
from mixalign.mixers.group_dro import GroupDRO
from mixalign.models.load import LoRA
from mixalign.models.reference import LIVE
from mixalign.models.tiny import TinyLlama
from mixalign.objectives.kto import KTO
from mixalign.training.callbacks.save_newest import SaveNewest
from mixalign.training.checkpoints import LAST, REST, newest_checkpoint
from mixalign.training.sharding import FullySharded, load_weights, save_model, whole

CASES = {
    "ama_r": (AMAR(eta=0.5), None),
    "ama_r accumulated": (AMAR(eta=0.5), 2),
    "ama_r clipped by task": (AMAR(eta=0.5, clip="task"), None),
    "ama_s": (AMAS(eta=0.5), None),
    "group_dro accumulated": (GroupDRO(eta=0.5), 1),
    "kto": (AMAR(eta=0.5), None),
    "kto accumulated": (AMAR(eta=0.5), 2),
    "kto clipped by task, accumulated": (AMAR(eta=0.5, clip="task"), 1),
    "ama_r clipped by task, accumulated": (AMAR(eta=0.5, clip="task"), 1),
    "ama_s with weights of rows": (AMAS(eta=0.5), 2),
}


SETTINGS = {"steps": 6, "batch_size": 8, "val_every": 3, "eval_batch_size": 4, "lr": 1e-3}


def prepare(make_job: Callable, case: str = ""):
    """Nine validation rows in batches of four: two batches on the first of two processes, and one on the other."""
    objective = KTO(beta=0.5) if case.startswith("kto") else None
    return make_job(validation_rows=3, dtype=torch.float64, objective=objective)


def weigh(job) -> None:
    """Weights of the rows of two of the three tasks; every third row has none."""
    for tables in (job.train, job.validation):
        for table in tables[:2]:
            table.attach("weight", np.arange(len(table), dtype=np.float32) % 3)


def keeper(folder: Path) -> ModelCheckpoint:
    """Saves at each validation, and compares what it watches."""
    return ModelCheckpoint(
        folder, "at{step}", monitor="eval/worst_excess", save_top_k=-1, auto_insert_metric_name=False
    )


def main(devices: int, folder: Path, make_job: Callable) -> None:
    out, rank = {}, 0
    for name, (mixer, micro) in CASES.items():
        job = prepare(make_job, name)
        keep = keeper(folder / f"{devices} ranks" / name)
        options = {"devices": devices, "strategy": "ddp" if devices > 1 else "auto"}
        if "weights" in name:
            weigh(job)
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


class Tied(TinyLlama):
    """The head's weights are those of the embedding."""

    def build(self):
        model = super().build()
        model.config.tie_word_embeddings = True
        model.tie_weights()
        assert model.lm_head.weight is model.model.embed_tokens.weight
        return model


TIED = Tied(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32, max_positions=64)

LONG = {
    "float64": {"dtype": torch.float64},
    "float32": {},
    "tied": {"tiny": TIED},
    "accumulated": {"dtype": torch.float64},
    "lora": {"dtype": torch.float64, "lora": LoRA(r=4)},
    "lora, its base is the reference": {"dtype": torch.float64, "lora": LoRA(r=4)},
}


ELASTIC = "float64"  # the case that goes on with another number of processes


def strategy_of(kind: str):
    return {"one": "auto", "ddp": "ddp", "fsdp2": FullySharded(), "fsdp2 folders": FullySharded(True)}[kind]


def long_run(kind: str, case: str, folder: Path, make_job: Callable, **further):
    """50 steps of global batches of 8, in micro-batches that are the same however they are shared out."""
    job = make_job(validation_rows=3, **LONG[case])
    live = "reference" in case
    for table in (*job.train, *job.validation) if live else ():
        del table.columns["reference_logp"]
    settings = {"micro": 2 if case == "accumulated" else 4, "steps": 50, "batch_size": 8, "val_every": 25}
    settings |= {"eval_batch_size": 4, "lr": 1e-3, "live": LIVE["adapter_off"] if live else None}
    options = {"devices": 1 if kind == "one" else 2, "strategy": strategy_of(kind)}
    return job.run(folder, AMAR(eta=0.5), trainer_options=options, **settings | further)


def whole_weights(run) -> dict[str, torch.Tensor]:
    return {name: whole(p.detach()).clone() for name, p in run.module.model.named_parameters()}


def every_validation(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "at{step}", save_top_k=-1, monitor=None, auto_insert_metric_name=False)


def what_it_did(run) -> dict:
    return {
        "alphas": torch.stack(run.seen.alphas),
        "weights": whole_weights(run),
        "evaluation": run.module.evaluation,
        "grad_norm": run.module.grad_norm,
        "losses": run.seen.losses(),
    }


def trained(kind: str, folder: Path, make_job: Callable) -> int:
    """Every case, for a comparison with one process; saves the model as the last thing."""
    out = {}
    for case in LONG:
        keep = [every_validation(folder / "halves" / kind)] if case == ELASTIC else []
        run = long_run(kind, case, folder, make_job, callbacks=keep)
        out[case] = what_it_did(run)
        tokenizer = (LONG[case].get("tiny") or TIED).tokenizer()
        save_model(run.module.model, tokenizer, folder / kind / case, run.trainer.is_global_zero)
    if kind != "one":
        out["goes on from one"] = goes_on(kind, "one", folder, make_job)
    torch.save(out, folder / f"{kind}{run.trainer.global_rank}.pt")
    return run.trainer.global_rank


def goes_on(kind: str, before: str, folder: Path, make_job: Callable) -> dict:
    """The second half of a training, whose first half was made in another way."""
    return what_it_did(long_run(kind, ELASTIC, folder, make_job, resume=folder / "halves" / before / "at25.ckpt"))


class Other(L.Callback):
    """A callback gone wrong: it sees to it that the second process draws from a mixture of its own."""

    def on_validation_start(self, trainer, *_) -> None:
        trainer.datamodule.sampler.cursor_K[0] += trainer.global_rank


def tear(checkpoint: Path) -> None:
    """Leaves of it what a process leaves that is killed while it writes."""
    if checkpoint.is_dir():
        (checkpoint / REST).unlink()
    else:
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])


def sharded(folder: Path, make_job: Callable) -> None:
    """What only FSDP2 does, and what many processes refuse."""
    rank = trained("fsdp2", folder, make_job)
    out = {}
    for kind, case in (("fsdp2", "lora"), ("fsdp2", "tied"), ("fsdp2 folders", "lora"), ("fsdp2 folders", "tied")):
        name, place = f"{kind} {case}", folder / f"{kind} {case}" / "checkpoints"
        run = long_run(kind, case, folder, make_job, callbacks=[every_validation(place)])
        if rank == 0:
            tear(place / "at50.ckpt")
        dist.barrier()
        resumed = long_run(kind, case, folder, make_job, resume=newest_checkpoint(place.parent))
        out[name] = {"weights": whole_weights(run), "resumed": whole_weights(resumed)}
        out[name] |= {"alphas": torch.stack(run.seen.alphas), "alphas resumed": torch.stack(resumed.seen.alphas)}
        load_weights(resumed.module, place / "at25.ckpt")
        out[name]["back"] = whole_weights(resumed)
    torch.save(out, folder / f"sharded{rank}.pt")


def refusals(folder: Path, make_job: Callable) -> None:
    """One validation row for two processes, a mixture that differs, and a callback that ends a training."""
    out = {}
    for kind in ("ddp", "fsdp2"):
        job = make_job({"reverse": 30}, validation_rows=1)
        options = {"devices": 2, "strategy": strategy_of(kind)}
        run = job.run(folder, steps=2, batch_size=4, trainer_options=options)
        out[kind] = run.module.evaluation["count"].tolist()
        try:
            long_run(kind, "float32", folder, make_job, callbacks=[Other()])
        except MixalignError as error:
            out[f"{kind} refused"] = str(error)
        place, steps = folder / f"{kind} stopped", []
        for resume in (None, place / LAST):  # never content, so it stops at the second validation
            callbacks = [EarlyStopping("eval/worst_excess", min_delta=100.0, patience=1), SaveNewest(place)]
            run = long_run(kind, "float32", folder, make_job, callbacks=callbacks, val_every=2, resume=resume)
            steps.append(run.trainer.global_step)
        out[f"{kind} stopped"] = steps
    torch.save(out, folder / f"refusals{run.trainer.global_rank}.pt")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import conftest

    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    number, place, part = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    if part == "main":
        main(number, place, conftest.make_job)
    elif part in ("one", "ddp"):
        trained(part, place, conftest.make_job)
    else:
        {"sharded": sharded, "refusals": refusals}[part](place, conftest.make_job)
