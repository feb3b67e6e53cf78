"""The tables of docs/evidence.md and docs/speed.md, and figures of docs/which_mixer.md, from benchmarks/results/*.json.

    python benchmarks/measured_tables.py

Each table stands between two marks, `<!-- NAME: made by benchmarks/measured_tables.py -->` and `<!-- end of NAME -->`.
The table of the arena has a script of its own, arena_table.py.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from tables import ROOT, markdown, with_block
from which_mixer import refill

RESULTS = Path(__file__).parent / "results"
SPEED = "2_core_intel_xeon_processor"  # the machine of the page's figures
STEPS = {
    "dpo_step_h256": "DPO, hidden size 256",
    "dpo_step_h512": "DPO, hidden size 512",
    "sft_step_h256": "SFT, hidden size 256",
    "real_dpo_lora": "DPO, SmolLM2-135M, adapter",
    "real_sft_lora": "SFT, SmolLM2-135M, adapter",
    "real_dpo_full": "DPO, SmolLM2-135M, whole",
    "real_sft_full": "SFT, SmolLM2-135M, whole",
    "scoring_h256": "scoring with a frozen model",
}
CURVATURES = {"ekfac": "EK-FAC", "kfac": "K-FAC", "kfac_empirical": "K-FAC, labels of the data"}
IDEAL = {
    "joint": "joint training",
    "ideal m=0.15": "`ideal`, m = 0.15",
    "ideal m=0.3": "`ideal`, m = 0.3",
    "ideal m=0.15, K-FAC": "m = 0.15, K-FAC",
    "ideal m=0.15, identity": "m = 0.15, no curvature",
    "flipped sign, m=0.15": "m = 0.15, flipped sign",
    "uniform": "`uniform`",
    "joint, 3 x the steps": "joint, three times the steps",
}


def main() -> None:
    for page, tables in PAGES.items():
        page.write_text(document(page.read_text(), tables))
    refill()


def document(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """The text of a page with its tables in their places.

    Raises:
        ValueError: when a table has no place.
    """
    for name, make in tables.items():
        if f"<!-- {name}: made by" not in text or f"<!-- end of {name} -->" not in text:
            raise ValueError(f"The page has no place for the table `{name}`.")
        text = with_block(text, name, Path(__file__).name, make())
    return text


def evidence() -> str:
    rows, (first, other) = _rows("evidence", "proportional"), ("proportional", "uniform")
    heads = ["mixer", "worst excess", "worst gap", "mean loss", f"worst excess minus `{first}`", f"minus `{other}`"]
    lines = [
        [
            f"`{row['label']}`",
            *(_score(row, key) for key in ("worst_excess", "worst_gap", "mean_loss")),
            *(_difference(row, baseline, wins=True) for baseline in (first, other)),
        ]
        for row in rows
    ]
    return markdown(heads, lines)


def compare() -> str:
    heads = ["method", "worst excess", "minus `uniform`", "minus `proportional`", "mean loss"]
    lines = [
        [
            row["label"],
            _score(row, "worst_excess"),
            *(_difference(row, baseline, wins=False) for baseline in ("uniform", "proportional")),
            _score(row, "mean_loss"),
        ]
        for row in _rows("compare_dpo", None)
    ]
    return markdown(heads, lines)


def evidence_ideal() -> str:
    losses = _results("evidence_ideal")["losses"]
    heads = ["", "mean loss", "minus joint training", "worst loss", "minus joint training"]
    lines = []
    for name, title in IDEAL.items():
        line = [title]
        for key in ("mean", "worst"):
            values = [one[key] for one in losses[name]]
            gaps = [one - joint[key] for one, joint in zip(values, losses["joint"], strict=True)]
            error = stdev(gaps) / len(gaps) ** 0.5
            below = f"{sum(gap < 0 for gap in gaps)} of {len(gaps)}"
            line += [
                _short(mean(values)),
                "" if name == "joint" else f"{_signed(mean(gaps))} ± {_short(error)} ({below})",
            ]
        lines.append(line)
    return markdown(heads, lines)


def speed() -> str:
    found = _results(SPEED)
    heads = ["rows a CPU-second", "mixalign", "TRL best", "TRL default", "ratios", "peak memory against TRL's best"]
    lines = []
    for name, title in STEPS.items():
        one = found[name]
        rates = [_rate(one["runs"], variant) for variant in ("ours", "trl_best", "trl_default")]
        ratios = ", ".join(f"{one['ratios'][key]:.1f}" for key in ("vs_trl_best", "vs_trl_default"))
        memory = f"{one['peak_mib']['ours']:.0f} of {one['peak_mib']['trl_best']:.0f} MiB"
        lines.append([title, *rates, ratios, memory])
    return markdown(heads, lines)


def growth() -> str:
    """The first size, and the largest of each sweep and format."""
    measured = [_results(name)["runs"] for name in ("growth", "growth_large")]
    stages = list(dict.fromkeys(run["stage"] for run in measured[0]))
    lines: dict[tuple[int, int, str], list[str]] = {}
    for runs in measured:
        largest = {(run["sweep"], run["format"]): _size(run) for run in runs}
        for size in (_size(runs[0]), *largest.values()):
            of_size = [run for run in runs if _size(run) == size]
            seconds = [median(run["cpu_s"] for run in of_size if run["stage"] == stage) for stage in stages]
            memory = max(run["anonymous_mib"] for run in of_size)
            lines[size] = [f"{size[0]:,} x {size[1]:,}", size[2], *map(_figure, seconds), f"{memory:.0f} MiB"]
    return markdown(["tasks x rows", "files", *stages, "memory"], [lines[size] for size in sorted(lines)])


def influence() -> str:
    found = _results(SPEED)
    heads = ["CPU seconds", "mixalign", "kronfluence", "ratio", "a row against training it", "memory"]
    lines = []
    for size, title in {"h256": "hidden size 256", "tiny": "a tiny model"}.items():
        one = found[f"influence_sft_{size}"]
        for key, curvature in CURVATURES.items():
            mine, theirs = ([run for run in one["runs"] if run["variant"] == name] for name in (key, f"kron_{key}"))
            seconds = [_figure(median(run["seconds"] for run in runs)) if runs else "" for runs in (mine, theirs)]
            ratio = f"{one['ratios'][f'{key}_vs_kronfluence']:.2f}" if theirs else ""
            memory = " of ".join(f"{median(run['peak_mib'] for run in runs):.0f}" for runs in (mine, theirs) if runs)
            steps = f"{one['ratios'][f'{key}_a_row_vs_training']:.2f}"
            lines.append([f"{title}, {curvature}", *seconds, ratio, steps, f"{memory} MiB"])
    return markdown(heads, lines)


PAGES: Mapping[Path, Mapping[str, Callable[[], str]]] = {
    ROOT / "docs" / "evidence.md": {"evidence": evidence, "compare": compare, "evidence-ideal": evidence_ideal},
    ROOT / "docs" / "speed.md": {"speed": speed, "growth": growth, "influence": influence},
}


def _results(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _rows(name: str, baseline: str | None) -> list[dict[str, Any]]:
    found = _results(name)
    rows: list[dict[str, Any]] = (found[baseline] if baseline else found)["rows"]
    return rows


def _score(row: Mapping[str, Any], key: str) -> str:
    score = row["scores"][key]
    return f"{_short(score['mean'])} ± {_short(score['error'])}"


def _difference(row: Mapping[str, Any], baseline: str, wins: bool) -> str:
    found = row["differences"].get(baseline, {}).get("worst_excess")
    if found is None:
        return ""
    text = f"{_signed(found['mean'])} [{_signed(found['low'])}, {_signed(found['high'])}]"
    return text + f" ({found['wins']} of {found['n']})" * wins


def _size(run: Mapping[str, Any]) -> tuple[int, int, str]:
    return run["tasks"], run["rows_a_task"], run["format"]


def _rate(runs: Sequence[Mapping[str, Any]], variant: str) -> str:
    value = median(run["rows_per_cpu_s"] for run in runs if run["variant"] == variant)
    return f"{value:.3g}".removeprefix("0")


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}".removeprefix("0")


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("+0.", "+.").replace("-0.", "-.")


if __name__ == "__main__":
    main()
