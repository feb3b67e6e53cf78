"""Every speed benchmark, one after the other, into one file: `benchmarks/results/<machine>.json`.

`python benchmarks/all.py scoring_h256 sampler_scale` runs some of them again and leaves the figures of the others.
Options go to each of them: `python benchmarks/all.py --short`, `python benchmarks/all.py --repeats=5`,
`python benchmarks/all.py influence_sft_h256 --kronfluence=PYTHON`.
"""

import argparse
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
    "real_dpo_lora": ["real_model.py", "--kind", "dpo", "--lora"],
    "real_sft_lora": ["real_model.py", "--kind", "sft", "--lora"],
    "real_dpo_full": ["real_model.py", "--kind", "dpo"],
    "real_sft_full": ["real_model.py", "--kind", "sft"],
    "scoring_h256": ["scoring.py", "--size", "h256"],
    "influence_sft_tiny": ["influence.py", "--size", "tiny", "--kind", "sft"],
    "influence_sft_h256": ["influence.py", "--size", "h256", "--kind", "sft"],
    "influence_dpo_h256": ["influence.py", "--size", "h256", "--kind", "dpo", "--steps", "48"],
    "mixing_overhead": ["mixing_overhead.py"],
    "sampler_scale": ["sampler_scale.py"],
    "tokenise_rows": ["tokenise_rows.py"],
    "job": ["job.py"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(RUNS)}; default: all")
    args, further = parser.parse_known_args()
    if unknown := {*args.names} - {*RUNS}:
        parser.error(f"there is no benchmark {', '.join(unknown)}")
    path = HERE / "results" / f"{_slug(machine(pick_device('auto')))}.json"
    for name in args.names or RUNS:
        script, *options = RUNS[name]
        print(f"\n{name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            figures = Path(folder) / "figures.json"
            command = [sys.executable, str(HERE / script), *options, *further, "--json", str(figures)]
            subprocess.run(command, check=True)
            known = json.loads(path.read_text()) if path.is_file() else {}
            path.write_text(json.dumps(known | {name: json.loads(figures.read_text())}, indent=2) + "\n")
    print(f"\nall figures: {path}")


def _slug(where: dict) -> str:
    """A file's name for this kind of machine."""
    name = where["gpu"] or f"{where['cores']} core {where['cpu']}"
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"\(.*?\)|cpu|@.*", " ", name.lower())).strip("_")


if __name__ == "__main__":
    main()
