"""Measures on some processes of one machine and saves what each of them found: `two_ranks.py rank world folder`."""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from mixalign.influence.benefit import measure
from mixalign.influence.settings import Influence, Reading
from mixalign.objectives.dpo import DPO
from mixalign.objectives.sft import SFT

CASES = {
    "sft ekfac": (SFT(), 1, "ekfac"),
    "sft kfac": (SFT(), 1, "kfac"),
    "dpo ekfac": (DPO(beta=0.5), 2, "ekfac"),
    "dpo identity": (DPO(beta=0.5), 2, "identity"),
}


def main(rank: int, world: int, folder: Path, table, llama) -> None:
    """Batches of 2: five of the domains, and three of the target tables, of which one process has one more."""

    def reduce(total):
        if world > 1:
            torch.distributed.all_reduce(total)
        return total

    out = {}
    for name, (objective, num_completions, curvature) in CASES.items():
        tables = [table(t, num_completions, seed=k) for k, t in enumerate("aba")]
        done = []
        reading = Reading(2, rank=rank, world=world, reduce=reduce, on_batch=lambda *x, done=done: done.append(x))
        influence = Influence(curvature, samples=4, sampling=0.9, bootstrap=50)
        found = measure(llama(dtype=torch.float64), objective, tables[:2], tables[2:], influence, reading)
        assert done[-1][0] == done[-1][1]
        out[name] = {
            "product": found.product_K,
            "dot": found.dot_K,
            "resampled": found.resampled_XK,
            "rows": found.rows_K,
            "work": np.array(done[-1][0]),
        }
    torch.save(out, folder / f"rank{rank}of{world}.pt")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import conftest

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    own_rank, number, place = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{place}/meeting", rank=own_rank, world_size=number
    )
    main(own_rank, number, place, conftest.make_table, conftest.make_model)
    torch.distributed.destroy_process_group()
