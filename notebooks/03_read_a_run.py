# %% [markdown]
# # Read a run
# What a run leaves in its folder, read with the standard library only, and its results worked out again from it.

# %%
import csv
import json
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

from mixalign import train

# %% [markdown]
# ## A run
# Two generated tasks and a model of a few thousand weights: a minute. For one of your own, leave this out and set
# `run`.

# %%
folder = tempfile.TemporaryDirectory()
run = Path(folder.name) / "run"
small = {"rows": 200, "validation_rows": 24, "test_rows": 40}
others = dict.fromkeys(("reverse", "format", "safe", "taste"))  # of the preset: none of them
tasks = {"helpful": {"generator": "helpful", **small}, "compare": {"generator": "compare", **small}}
result = train(
    "mixer=ama_s",
    run_dir=run,
    cache_dir=str(Path(folder.name) / "cache"),
    data={"tasks": others | tasks},
    model={"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32},
    steps=30,
    batch_size=12,
    val_every=10,
    log_every=1,
    reference={"sft_steps": 20},
    specialists={"steps": 15},
    progress=False,
)
print(sorted(path.name for path in run.iterdir()))

# %% [markdown]
# ## The mixture of every step
# `mix.jsonl` has a line a step: the shares that its rows were drawn with.

# %%
lines = [json.loads(line) for line in (run / "mix.jsonl").read_text().splitlines()]
mixture = json.loads((run / "mixture.json").read_text())
names = mixture["tasks"]
shares = [line["sample"] for line in lines]
mean = [sum(one[k] for one in shares[:30]) / 30 for k in range(len(names))]
print("mean share:", dict(zip(names, mean, strict=True)))
assert all(abs(a - b) < 1e-6 for a, b in zip(mean, mixture["sample_mean"], strict=True))
assert result.mixture == mixture

# %% [markdown]
# ## Curves
# `metrics.csv` has a line a step, or a validation; what was not measured is empty.

# %%
with (run / "metrics.csv").open() as file:
    rows = list(csv.DictReader(file))
curve = {int(row["step"]): float(row["eval/worst_excess"]) for row in rows if row.get("eval/worst_excess")}
print("worst excess of the validations:", curve)
for step, worst in curve.items():
    (row,) = [row for row in rows if int(row["step"]) == step and row.get("eval/worst_excess")]
    assert abs(worst - max(float(row[f"eval_excess/{task}"]) for task in names)) < 1e-6

# %% [markdown]
# ## The result
# `eval.json`: every task on test rows, which training never saw. The gap is a difference of two mean losses, and the
# excess, clipped by row, is never below it.

# %%
found = json.loads((run / "eval.json").read_text())
for task in names:
    one = found["tasks"][task]
    print(task, {key: round(one[key], 3) for key in ("loss", "specialist_loss", "gap", "excess")})
    assert abs(one["loss"] - one["specialist_loss"] - one["gap"]) < 1e-5
    assert one["excess"] >= max(one["gap"], 0) - 1e-6
worst = max(names, key=lambda task: found["tasks"][task]["excess"])
print("worst:", worst)
assert (result.worst.task, result.worst.value) == (worst, found["tasks"][worst]["excess"])

# %% [markdown]
# ## A picture
# The share of each task over the steps; `result.plot()` draws it with the rest, and `mixalign report` compares runs.

# %%
figure = Figure(figsize=(6, 2.5), layout="constrained")
axes = figure.subplots()
axes.stackplot(range(1, len(shares) + 1), list(zip(*shares, strict=True)), labels=names)
axes.set(xlabel="step", ylabel="share", ylim=(0, 1))
axes.legend(loc="lower left", frameon=False)
figure.savefig(run / "shares.png")
folder.cleanup()
