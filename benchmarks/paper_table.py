"""The tables of docs/paper.md and the verdicts on the papers' claims, from benchmarks/results/paper.json.

A cell is the mean difference to the part's baseline over the seeds, with the 95 % interval of the paired differences by
Student's t; `*`: it leaves zero out; `**`: so does Holm's correction for all cells of the column. Claims of a part
are one family: their intervals are those that Holm's correction tests.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import which_mixer
from paper_claims import OPEN, Claim, Values, claims, rank_correlation, trainings, values_of, verdict
from tables import ROOT, between, code, corrected, corrected_intervals, difference, markdown, with_block

from mixalign.reporting.judge.statistics import Score
from mixalign.reporting.judge.verdicts import MIN_SEEDS

__all__ = ["RESULTS", "all_tables", "claims_table", "document", "judged"]

RESULTS = Path(__file__).parent / "results" / "paper.json"
PAGE = ROOT / "docs" / "paper.md"
BASELINE = {"ama": "proportional", "ideal": "joint"}
MEASURES = {
    "ama": ("worst_excess", "mean_excess", "worst_gap", "mean_loss", "accuracy"),
    "ideal": ("mean_loss", "worst_loss", "imbalance", "accuracy"),
}
HIGHER = ("accuracy",)


def main() -> int:
    if not RESULTS.is_file():
        print(f"error: there is no {RESULTS}. Make it: make paper", file=sys.stderr)
        return 1
    results = json.loads(RESULTS.read_text())
    print(all_tables(results))
    PAGE.write_text(document(PAGE.read_text(), results))
    which_mixer.refill()
    return 0


def document(text: str, results: Mapping[str, Any]) -> str:
    """docs/paper.md with the blocks of these results."""
    for part, block in _blocks(results).items():
        text = with_block(text, f"paper-{part}", "paper_table.py", block)
    return text


def all_tables(results: Mapping[str, Any]) -> str:
    """All tables as Markdown."""
    return "\n\n".join(_blocks(results).values())


def _blocks(results: Mapping[str, Any]) -> dict[str, str]:
    return {part: _part(part, results) for part in MEASURES}


def _part(name: str, results: Mapping[str, Any]) -> str:
    part = results["parts"].get(name)
    if part is None:
        return "Not measured."
    if "skipped" in part:
        return f"Skipped: {part['skipped']}."
    blocks = [_said(name, part, results), claims_table(claims(name, part))]
    if "rows" not in part:
        return "\n\n".join(blocks)
    blocks.append(_scores(name, part))
    if name == "ama":
        blocks.append("Largest mean of a task's validated excess over the run so far, nats:\n\n" + _along(part))
    if name == "ideal":
        blocks.append(
            "Predicted and actual change of the target losses, nats (means over seeds):\n\n" + _promises(part)
        )
    return "\n\n".join(blocks)


def _said(name: str, part: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    made = results["machine"]
    device = made["gpu"] or f"{made['cpu']}, {made['cores']} cores"
    scores = [measures for label, measures in part["scores"].items() if ", round " not in label]
    missing = sum(x is None for measures in scores for x in measures.get("mean_loss", [None] * part["seeds"]))
    cpu = sum(x for measures in scores for x in measures.get("cpu_seconds", []) if x)
    command = f"make paper {results['form']}=1" + "".join(f" {one}" for one in part["overrides"])
    if "rows" not in part:
        return f"`{command}`, on {device}: no run is finished."
    rows = ", ".join(f"{task} {splits['train']:,}" for task, splits in part["rows"].items())
    test = [splits["test"] for splits in part["rows"].values()]
    return (
        f"`{command}`, on {device}: {part['seeds']} seeds; {part['steps']} steps of "
        f"{part['batch_size']} rows of at most {part['max_length']} tokens; rows to train on: {rows}; {min(test)} to "
        f"{max(test)} test rows a task; {cpu / 60:.0f} CPU minutes of training, without specialists and evaluation."
        + f" {missing} runs are not finished, and left out with their pairs."
        * bool(missing)
    )


def claims_table(claims: Sequence[Claim]) -> str:
    """A line a claim: its figure, the interval that Holm's correction tests, and the verdict."""
    lines = []
    for claim, (figure, interval, word) in judged(claims):
        claimed = f"{claim.size:+.3f}" if claim.size is not None else "above 0" if claim.higher else "below 0"
        lines.append([claim.text, claim.measure, claimed, figure, interval, word if figure == "-" else f"**{word}**"])
    return markdown(["claim", "measure", "claimed", "difference", "corrected interval", "verdict"], lines)


def judged(claims: Sequence[Claim]) -> list[tuple[Claim, tuple[str, str, str]]]:
    """Each with its difference, its corrected interval and the verdict; dashes where it was not measured."""
    pairs = {n: pair for n, claim in enumerate(claims) if (pair := between(claim.mine, claim.theirs))}
    intervals = corrected_intervals(pairs)
    found: list[tuple[Claim, tuple[str, str, str]]] = []
    for n, claim in enumerate(claims):
        if n not in pairs:
            alone = [a - b for a, b in zip(claim.mine, claim.theirs, strict=True) if a is not None and b is not None]
            found.append((claim, (f"{alone[0]:+.3f}", "one seed", OPEN) if alone else ("-", "-", "not measured")))
            continue
        low, high = intervals[n]
        word = verdict(claim, low, high) if pairs[n].n >= MIN_SEEDS else OPEN
        found.append((claim, (f"{pairs[n].mean:+.3f}", f"[{low:+.3f}, {high:+.3f}]", word)))
    return found


def _scores(name: str, part: Mapping[str, Any]) -> str:
    """A line a variant: what it measures, its difference to the baseline, and the CPU seconds of a run."""
    base = BASELINE[name]  # of runs in rounds each round, and not again the one that was kept
    labels = [label for label in part["scores"] if f"{label}, round 0" not in part["scores"]]
    columns: dict[str, list[str]] = {label: [] for label in labels}
    for measure in MEASURES[name]:
        theirs = values_of(part, base, measure)
        pairs = {}
        for label in labels:
            pair = between(values_of(part, label, measure), theirs, measure not in HIGHER) if label != base else None
            if pair:
                pairs[label] = pair
        p_values = corrected({label: pair for label, pair in pairs.items() if pair.n >= MIN_SEEDS})
        for label in labels:
            columns[label].append(_level(values_of(part, label, measure)))
            cell = difference(pairs[label], p_values.get(label)) if label in pairs else "-" * (label != base)
            columns[label].append(cell)
    heads = ["variant"]
    for measure in MEASURES[name]:
        heads += [measure.replace("_", " "), f"minus {base}"]
    lines = [[code(label), *cells, _cpu(part["scores"][_run(label)])] for label, cells in columns.items()]
    return markdown([*heads, "CPU seconds of a run (and before it)"], lines)


def _run(label: str) -> str:
    return label.split(", round ")[0]


def _level(values: Values) -> str:
    """The mean, and over how many seeds where that is not all."""
    known = [x for x in values if x is not None]
    return f"{mean(known):.3f}" + f" (n={len(known)})" * (len(known) < len(values)) if known else "-"


def _cpu(measures: Mapping[str, Any]) -> str:
    known = [x for x in measures.get("cpu_seconds", []) if x is not None]
    before = [x for x in measures.get("cpu_seconds_before", []) if x is not None]
    return f"{mean(known):.0f}" + f" ({mean(before):.0f})" * any(before) if known else "-"


def _along(part: Mapping[str, Any]) -> str:
    found = {label: [one for one in runs if one] for label, runs in part["objective_along"].items()}
    steps = next((one["steps"] for runs in found.values() for one in runs), [])
    lines = [
        [
            code(label),
            *(f"{mean(one['worst_mean_excess'][n] for one in runs):.3f}" if runs else "-" for n in range(len(steps))),
        ]
        for label, runs in found.items()
    ]
    return markdown(["variant", *(f"step {step}" for step in steps)], lines)


def _promises(part: Mapping[str, Any]) -> str:
    """Predicted beside actual, for each variant, round and target; with the rank correlation over all trainings."""
    targets = next(
        (list(one["target_loss"]) for runs in part["rounds"].values() for run in runs if run for one in run), []
    )
    lines = []
    for label, runs in part["rounds"].items():
        for number in (1, 2):
            entries = [run[number] for run in runs if run and number < len(run) and "predicted_change" in run[number]]
            cells = [
                f"{mean(e['predicted_change'][t] for e in entries):+.4f}, {mean(e['change'][t] for e in entries):+.4f}"
                for t in targets
                if entries
            ]
            lines += [[code(label), str(number), *cells, str(len(entries))]] if entries else []
    pairs = trainings(part)
    flat = [pair for one in pairs for pair in one]
    within = [rho for one in pairs if (rho := rank_correlation(one)) is not None]
    rho = rank_correlation(flat)
    text = (
        "No changes were predicted."
        if rho is None
        else (
            f"Rank correlation of predicted and actual changes: {rho:+.2f} over all {len(flat)} targets of "
            f"{len(pairs)} trainings; within a training {Score.of(within).mean:+.2f} on average."
        )
    )
    return (
        markdown(["variant", "round", *(f"{t}: predicted, actual" for t in targets), "trainings"], lines)
        + f"\n\n{text}"
    )


if __name__ == "__main__":
    sys.exit(main())
