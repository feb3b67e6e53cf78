# %% [markdown]
# # A mixer of your own
# A rule says what it needs to see, and has two pure functions: `init` gives the first mixture, `update` the next one
# from what was measured. Here: half of the rows come from the task with the greatest loss, and all tasks share the
# rest.

# %%
from dataclasses import dataclass
from typing import ClassVar

import lightning as L
import torch
from matplotlib.figure import Figure

from mixalign import SFT, AlignModule, Mixing, MixtureData, Optimizer, TinyLlama
from mixalign.mixers.base import Mix, MixSignal, Rule, read
from mixalign.mixers.simplex import uniform

# %% [markdown]
# ## The rule


# %%
@dataclass(frozen=True)
class Hardest(Rule):
    bonus: float = 0.5

    needs: ClassVar[frozenset[str]] = frozenset({"loss_K"})  # the mean loss of each task in the batch
    composition: ClassVar[str] = "stratified"  # a batch holds the shares as exactly as whole rows allow
    descends_on: ClassVar[str] = "loss"
    clip: ClassVar[str] = "none"

    def init(self, rows_K):
        return Mix(uniform(len(rows_K))), {"loss_K": torch.zeros(len(rows_K))}

    def update(self, signal, state):
        loss_K = read(signal, "loss_K", state["loss_K"])  # nan for a task without a row in the batch
        loss_K = torch.where(loss_K.isnan(), state["loss_K"], loss_K)
        sample_K = (1 - self.bonus) * uniform(len(loss_K))
        sample_K[loss_K.argmax()] += self.bonus
        return Mix(sample_K), {"loss_K": loss_K}


# %% [markdown]
# ## By hand first
# Three tasks, the second has the greatest loss: (1 - 1/2) / 3 = 1/6 for the others. Then it is absent, and what is
# known of it stays.

# %%
rule = Hardest()
mix, state = rule.init(torch.tensor([100.0, 50.0, 10.0]))
assert torch.allclose(mix.sample_K, torch.tensor([1 / 3, 1 / 3, 1 / 3]).double())
mix, state = rule.update(MixSignal(0, torch.ones(3), loss_K=torch.tensor([0.5, 2.0, 1.0])), state)
assert torch.allclose(mix.sample_K, torch.tensor([1 / 6, 2 / 3, 1 / 6]).double())
mix, state = rule.update(MixSignal(1, torch.ones(3), loss_K=torch.tensor([0.4, torch.nan, 1.0])), state)
assert torch.allclose(mix.sample_K, torch.tensor([1 / 6, 2 / 3, 1 / 6]).double())

# %% [markdown]
# ## In a training
# Two tasks: copying a digit, and adding two. The mixture is moved by the `Mixing` callback; nothing else is needed.

# %%
L.seed_everything(0, verbose=False)
copies = [{"prompt": f"say {n}: ", "completion": str(n)} for n in range(100)]
sums = [{"prompt": f"{a} and {b}: ", "completion": f"in all {a + b}"} for a in range(10) for b in range(10)]
objective, source = SFT(), TinyLlama()
tasks = {"copy": copies, "sum": sums}
data = MixtureData.from_tasks(tasks, source.tokenizer(), objective.form, batch_size=12)


class Path(L.Callback):
    """Keeps the mixture of every step."""

    def __init__(self):
        self.mixes = []

    def on_train_batch_end(self, *_):
        self.mixes.append(mixing.mix.sample_K.clone())


mixing, path = Mixing(Hardest()), Path()
trainer = L.Trainer(
    max_steps=40, callbacks=[mixing, path], logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, accelerator="cpu",
)  # fmt: skip
module = AlignModule(source.build(), objective, optimizer=Optimizer(lr=3e-3))
trainer.fit(module, datamodule=data)
mixes = torch.stack(path.mixes)
print("share of each task, mean over the steps:", dict(zip(data.tasks, mixes.mean(0).tolist(), strict=True)))
assert {tuple(mix.tolist()) for mix in mixes[1:]} <= {(0.25, 0.75), (0.75, 0.25)}, "two tasks: 1/4 and 3/4"

# %% [markdown]
# The share of each task over the steps: the harder one has three quarters, until the other falls behind.

# %%
figure = Figure(figsize=(6, 2.5), layout="constrained")
axes = figure.subplots()
axes.stackplot(range(1, len(mixes) + 1), mixes.T.tolist(), labels=data.tasks, step="post")
axes.set(xlabel="step", ylabel="share of the batch", xlim=(1, len(mixes)), ylim=(0, 1))
axes.legend(loc="upper right")
figure

# %% [markdown]
# ## On the command line
# Put the class into `my_rules.py`, and beside it `my_conf/mixer/hardest.yaml` with `_target_: my_rules.Hardest`,
# `name: hardest` and `bonus: 0.5`. Then `PYTHONPATH=. MIXALIGN_TARGETS=my_rules.Hardest mixalign train --config-dir
# my_conf mixer=hardest mixer.bonus=0.7`.
