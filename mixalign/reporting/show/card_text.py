"""What a model card says, as Markdown: only what is in the run's files."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mixalign.final_rows import FinalRows, accuracy_means, lowest_of
from mixalign.reporting.read.files import number
from mixalign.reporting.read.runs import Run
from mixalign.reporting.show.further import further_table, harness_table
from mixalign.terminal import counted

__all__ = ["base_note", "command", "data_note", "license_note", "mixture", "mixture_note", "results", "summary"]
__all__ += ["out_of", "title", "training", "versions", "without_places"]

PLACE = re.compile(
    r"(?<=['\"])(?:~|\.{1,2})?/[^'\"]*|(?<![\w:/.$}])(?:~|\.{1,2})?/[^\s,'\"\]})]*"
)  # of a file on this machine
OWN = (
    "run_dir",
    "cache_dir",
    "hydra",
    "hydra/",
    "launcher",
    "resume",
    "max_time",
    "progress",
)  # say nothing of the model
FIRST = ("rows", "start_loss", "loss", "specialist_loss", "gap", "excess", "start_accuracy", "accuracy", "margin")
MEASURED_LATER = "## Further results"
LAST = ("score_before", "score")
NAMES = {"dpo": "DPO", "sft": "SFT", "kto": "KTO"}


def title(run: Run, base_model: str | None) -> str:
    return f"{base_name(run, base_model)}, trained on {counted(len(run.tasks), 'task')} with {run.mixer}"


def base_name(run: Run, base_model: str | None) -> str:
    """What the base is called: its id on the hub, or the name of its folder, file or kind, without its place."""
    model = run.config.get("model")
    model = model if isinstance(model, dict) else {}
    place = model.get("path") or model.get("gguf_file") or model.get("package")
    if base_model or place:
        parts = [part for part in re.split(r"[/\\]", str(place)) if part]
        return base_model or (parts[-2] if parts[-1] == "model" and len(parts) > 1 else parts[-1])
    return str(model.get("_target_") or "A language model").rpartition(".")[2]


def summary(run: Run, is_adapter: bool, base_model: str | None, dtype: str, base_file: str = "") -> str:
    base, objective = base_name(run, base_model), NAMES.get(run.objective, run.objective)
    base = f"`{base}`" if base_model or "path" in (run.config.get("model") or {}) else f"{base}"
    base += out_of(base_file)
    is_merged = run.config.get("lora") and not is_adapter
    into = " It was trained as a LoRA adapter, which is merged into its base." if is_merged else ""
    of = f"by {objective} with mixalign on {counted(len(run.tasks), 'task')} at once; mixer: `{run.mixer}`."
    kind = f"A LoRA adapter on {base}, trained {of}" if is_adapter else f"{base}, fine-tuned {of}"
    if run.method == "merge":
        of = f"specialists of {counted(len(run.tasks), 'task')}, merged by mixalign (`{run.mixer}`)."
        kind = f"A LoRA adapter on {base}: {of}" if is_adapter else f"{base}: {of}"
    return f"{kind}{into}{_exported(run)}" + (f" The weights are stored in {dtype}." if dtype else "")


def out_of(base_file: str | None) -> str:
    return f" (out of the GGUF file {base_file})" if base_file else ""


def _exported(run: Run) -> str:
    exported = run.eval.get("exported")
    if not isinstance(exported, dict) or "step" not in exported:
        return ""
    steps = run.eval.get("steps")
    by = f", with {lowest_of(str(exported['monitor']))}" if exported.get("monitor") else ""
    if isinstance(exported.get("averaged"), list):
        first, last = exported["averaged"]
        return f" Its weights are the mean of those of steps {first} to {last} of {steps}{by}."
    return f" Its weights are those of step {exported['step']} of {steps}{by}."


def base_note(run: Run, is_adapter: bool, base_beside: bool, base_model: str | None) -> str:
    if not is_adapter or base_model:
        return ""
    if base_beside:
        return (
            "`base/` is the model that the adapter was trained on; `adapter_config.json` names the place where it was "
            "written, so after a move load both as above."
        )
    if "path" in (run.config.get("model") or {}) and not _policy(run):
        return (
            f"The base is a local folder, `{base_name(run, None)}`: name it as `base_model` above, as the hub has it."
        )
    return "The base was made by mixalign, and is in `base/` of its run; `mixalign export` makes one model of both."


def _policy(run: Run) -> str:
    """How long SFT trained a reference policy first; empty where none was."""
    reference = run.config.get("reference")
    reference = reference if isinstance(reference, dict) and run.objective != "sft" else {}
    steps, epochs = reference.get("sft_steps"), reference.get("sft_epochs")
    return f"{steps} steps" if steps else f"{epochs} epochs" if steps is None and epochs else ""


def mixture(run: Run, rows: Mapping[str, Any]) -> str:
    """Rows and tokens of each task, its share of the mixture at the first and the last step, and what was drawn."""
    history, drawn = run.mix_history, run.mixture
    columns: dict[str, list[str]] = {"task": [_code(task) for task in run.tasks]}
    train = [(rows.get(task) or {}).get("train") or {} for task in run.tasks]
    for key in ("rows", "tokens"):
        columns[key] = [_count(entry.get(key)) for entry in train]
    if history is not None:
        pairs = zip(history.alpha_NK[0], history.alpha_NK[-1], strict=True)
        columns["share, first -> last step"] = [f"{first:.3f} -> {last:.3f}" for first, last in pairs]
    columns |= {"rows seen": [_count(n) for n in drawn.get("rows_seen") or []]}
    columns |= {"epochs": [f"{number(n):.2f}" for n in drawn.get("epochs_seen") or []]}
    rounds = run.eval.get("rounds")
    if isinstance(rounds, list) and rounds:
        volumes = rounds[run.eval.get("best_round") or 0].get("volumes") or {}
        columns["rows of an epoch, as IDEAL chose"] = [_count(volumes.get(task)) for task in run.tasks]
    shown = {name: cells for name, cells in columns.items() if len(cells) == len(run.tasks) and any(cells)}
    return _table([*shown], list(zip(*shown.values(), strict=True)))


def mixture_note(run: Run, has_picture: bool) -> str:
    history = run.mix_history
    if history is None:
        return ""
    weighs = not all(math.isnan(value) for value in history.loss_NK[-1])
    what = "weights of the tasks' losses" if weighs else "how often a row of the task is drawn"
    moved = "" if has_picture else " They did not change in the course of this training."
    return f"Shares: {what}.{moved}"


def results(run: Run) -> str:
    """Every number of each task on the rows that judged it."""
    tasks, mean = run.eval.get("tasks") or {}, run.eval.get("mean") or {}
    found = dict.fromkeys(key for row in tasks.values() for key, value in row.items() if _is_number(value))
    others = [key for key in found if key not in (*FIRST, *LAST, "generated")]
    keys = [key for key in (*FIRST, *others, *LAST) if key in found]
    lines = [[_code(task), *(_value(key, row.get(key)) for key in keys)] for task, row in tasks.items()]
    if len(tasks) > 1:
        lines.append(["mean over tasks", *(_value(key, mean.get(key)) if key != "rows" else "" for key in keys)])
    return _table(["task", *(key.replace("_", " ") for key in keys)], lines) + "\n\n" + _meaning(run, keys)


def further(run: Run) -> str:
    """The section on rows and tasks that the run was measured on later; empty where there are none."""
    tables = [table for table in (further_table([run], named=False), harness_table([run], named=False)) if table]
    parts = [f"{_table(table.titles, [_escaped(row) for row in table.rows])}\n\n{table.caption}" for table in tables]
    return "\n\n".join([MEASURED_LATER, *parts]) if parts else ""


def _escaped(row: Sequence[str]) -> list[str]:
    return [cell.replace("|", "\\|") for cell in row]


def _meaning(run: Run, keys: Sequence[str]) -> str:
    rows = FinalRows.of([run.eval])
    out = [f"On the {rows.word} rows, which training never looked at."]
    if rows.caution:
        out = [f"On the {rows.word} rows. {rows.caution}"]
    precision = (run.config.get("trainer") or {}).get("precision")
    if precision in (None, "auto", "32-true"):
        out.append("Losses are in nats.")
    else:
        out.append(f"Losses are in nats, computed in `{precision}` as in the training: in another type, or with an")
        out.append("adapter merged into its base, they differ by some hundredths.")
    if "start_loss" in keys:
        out.append("*Start loss* is that of the model that training began with.")
    if "specialist_loss" in keys:
        out.append("*Excess* is the mean of max(loss - specialist loss, 0), the specialist being a model trained on")
        out.append("that task alone; *gap* is the same without the clip.")
    if "accuracy" in keys:
        out.append(f"*Accuracy* is the {accuracy_means(run.eval)}.")
    if "score" in keys:
        out.append("*Score* is of generated answers: before, of the model that training began with, and now.")
    return " ".join(out)


def training(run: Run) -> str:
    """The settings that decide what was trained, one a line."""
    config = run.config
    groups = {name: config.get(name) for name in ("optimizer", "lora", "objective", "mixer", "trainer")}
    group: dict[str, dict[str, Any]] = {k: v if isinstance(v, dict) else {} for k, v in groups.items()}
    objective, lora, optimizer = group["objective"], group["lora"], group["optimizer"]
    loss = ", ".join(f"{key} {objective[key]}" for key in ("loss", "beta") if objective.get(key) is not None)
    lines = {
        "objective": f"{NAMES.get(run.objective, run.objective)}{f' ({loss})' if loss else ''}",
        "mixer": f"`{run.mixer}`" + _settings_of(group["mixer"]),
        "seed": str(run.seed),
    }
    if run.method != "merge":
        lines["steps"] = f"{run.eval.get('steps', config.get('steps'))} of {config.get('batch_size')} rows"
        lines["optimizer"] = f"AdamW, learning rate {optimizer.get('lr')}, {_schedule(optimizer)}"
        lines["precision"] = str(group["trainer"].get("precision"))
    if policy := _policy(run):
        lines["before it"] = f"{policy} of SFT on all tasks, which made the reference policy"
    if lora:
        lines["LoRA"] = f"rank {lora.get('r')}, alpha {lora.get('lora_alpha')}, on {lora.get('target_modules')}"
    if run.cost is not None and math.isfinite(run.cost.seconds):
        steps = ", ".join(f"{count:,} {what}" for what, count in run.cost.steps.items())
        lines["cost"] = f"{run.cost.text}; optimizer steps: {steps}"
    return "\n".join(f"- {name}: {value}" for name, value in lines.items())


def _schedule(optimizer: Mapping[str, Any]) -> str:
    """The schedule of the learning rate, with what is warm-up and, of `wsd`, decay."""
    parts = [f"{optimizer.get('schedule')} schedule"]
    if warm := optimizer.get("warmup_steps"):
        parts.append(f"after a warm-up over the first {_part(warm)}")
    if optimizer.get("schedule") == "wsd" and (decay := optimizer.get("decay_steps")):
        parts.append(f"falling over the last {_part(decay)}")
    return " ".join(parts)


def _part(steps: float) -> str:
    return f"{steps:.3g} steps" if steps >= 1 else f"{100 * steps:.3g}% of the steps"


def _settings_of(mixer: Mapping[str, Any]) -> str:
    plain = {k: v for k, v in mixer.items() if k not in ("name", "_target_", "wrap") and v is not None}
    shown = ", ".join(f"{key} {value}" for key, value in plain.items() if isinstance(value, str | int | float))
    return f" ({shown})" if shown else ""


def command(overrides: Sequence[str]) -> str:
    """The command without what names a place here; empty where the run does not know it."""
    kept = [text for text in overrides if not text.lstrip("+~").split("=")[0].split(".")[0].startswith(OWN)]
    words = [without_places(text.removeprefix("++")) for text in kept]
    return " ".join(["mixalign train", *(f"'{w}'" if re.search(r"[\s{}\[\]()*$&|;<>]", w) else w for w in words)])


def without_places(text: str) -> str:
    """The text with files of this machine by their names alone."""
    return PLACE.sub(lambda found: found[0].rstrip("/").rpartition("/")[2], text)


def versions(origin: Mapping[str, str], identity: Mapping[str, str]) -> str:
    found = dict(identity) | dict(origin)
    return ", ".join(f"{name} {version}" for name, version in found.items())


def license_note(license: str | None, base_model: str | None, base_license: str | None = None) -> str:
    if license:
        return f"License: {license}."
    base = f"that of `{base_model}`" if base_model else "that of the base model"
    base += f", {base_license}" if base_license else ""
    return f"No license is named: add `license:` to the lines at the top of this file. Look at {base}, and of the data."


def data_note(run: Run, data_sets: Mapping[str, str]) -> str:
    named = [f"rows of {_code(task)}: from `{name}` on the Hugging Face hub" for task, name in data_sets.items()]
    entries = (run.config.get("data") or {}).get("tasks") or {}
    rest = {task: bool((entries.get(task) or {}).get("generator")) for task in run.tasks if task not in data_sets}
    for what, is_made in (("from local files", False), ("generated by rules", True)):
        if tasks := [_code(task) for task, made in rest.items() if made is is_made]:
            named.append(f"rows of {', '.join(tasks)}: {what}")
    return f"Data: {'; '.join(named)}."


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in heads[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *lines))


def _code(name: str) -> str:
    text = str(name).replace("|", "\\|")
    return f"`{text}`"


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _value(key: str, value: object) -> str:
    if key == "rows":
        return _count(value)
    amount = number(value)
    return "n/a" if math.isnan(amount) else f"{amount:.3f}".replace("-0.000", "0.000")
