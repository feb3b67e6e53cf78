"""Every speed benchmark, one after the other, into one file: `benchmarks/results/<machine>.json`.

Further options go to each of them: `python benchmarks/all.py --short`, `python benchmarks/all.py --repeats 5`.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from common import machine, pick_device

HERE = Path(__file__).parent
RUNS = {
    "dpo_step_h256": ["dpo_step.py", "--size", "h256"],
    "dpo_step_h512": ["dpo_step.py", "--size", "h512", "--steps", "6"],
    "sft_step_h256": ["sft_step.py", "--size", "h256"],
    "scoring_h256": ["scoring.py", "--size", "h256"],
    "mixing_overhead": ["mixing_overhead.py"],
    "sampler_scale": ["sampler_scale.py"],
}


def main() -> None:
    if {"-h", "--help"} & set(sys.argv):
        sys.exit(__doc__)
    device = pick_device("auto")
    found = {}
    for name, (script, *options) in RUNS.items():
        print(f"\n{name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            figures = Path(folder) / "figures.json"
            command = [sys.executable, str(HERE / script), *options, *sys.argv[1:], "--json", str(figures)]
            subprocess.run(command, check=True)
            found[name] = json.loads(figures.read_text())
    where = machine(device)
    path = HERE / "results" / f"{_slug(where)}.json"
    path.write_text(json.dumps({"machine": where, "benchmarks": found}, indent=2) + "\n")
    print(f"\nall figures: {path}")


def _slug(where: dict) -> str:
    """A file's name for this kind of machine."""
    name = where["gpu"] or f"{where['cores']} core {where['cpu']}"
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"\(.*?\)|cpu|@.*", " ", name.lower())).strip("_")


if __name__ == "__main__":
    main()
