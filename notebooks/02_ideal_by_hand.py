# %% [markdown]
# # IDEAL by hand
# Influence of each task's volume on a target loss, in plain PyTorch: a convex model, so that every number can be
# checked by training again. At the end the rule of the package, `mixalign.mixers.ideal.Ideal`, must come to the same
# volumes.

# %%
import torch
from matplotlib.figure import Figure

from mixalign.mixers.base import MixSignal
from mixalign.mixers.ideal import Ideal

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
TASKS = {"ample": 800, "starved": 40, "contradicting": 300}
FEATURES, RIDGE, M = 6, 1e-2, 0.15

# %% [markdown]
# ## Rows
# Logistic regression. The target rows are made as those of `ample` and `starved` are, half and half; `contradicting`
# has the labels the other way round.


# %%
def rows(count, weights):
    x = torch.randn(count, FEATURES)
    return x, (x @ weights + 0.5 * torch.randn(count) > 0).double()


common, special = torch.randn(FEATURES), torch.randn(FEATURES)
data = [rows(TASKS["ample"], common), rows(TASKS["starved"], special), rows(TASKS["contradicting"], -special)]
targets = [rows(2000, common), rows(2000, special)]
share = torch.tensor([*TASKS.values()], dtype=torch.float64) / sum(TASKS.values())


def mean_loss(theta, x, y):
    return torch.nn.functional.binary_cross_entropy_with_logits(x @ theta, y)


def training_loss(theta, beta):
    """The mean loss with (1 + beta_i) times the rows of task i, and a ridge that makes it strictly convex."""
    by_task = torch.stack([mean_loss(theta, *task) for task in data])
    return ((1 + beta) * share * by_task).sum() + RIDGE * theta.square().sum()


def target_loss(theta):
    return sum(mean_loss(theta, *table) for table in targets) / len(targets)


# %% [markdown]
# ## Training, by Newton's method


# %%
def train(beta):
    theta = torch.zeros(FEATURES)
    for _ in range(50):
        gradient = torch.func.grad(training_loss)(theta, beta)
        theta = theta - torch.linalg.solve(torch.func.hessian(training_loss)(theta, beta), gradient)
    assert gradient.norm() < 1e-10
    return theta


zero = torch.zeros(len(TASKS))
theta = train(zero)

# %% [markdown]
# ## Benefit: how far the target loss falls for each unit of a task's volume
# b_i = p_i g_Q' H^-1 g_i, with the Hessian itself; the package takes EK-FAC in its place, because a language model's
# has too many entries.

# %%
hessian = torch.func.hessian(training_loss)(theta, zero)
target_gradient = torch.func.grad(target_loss)(theta)
gradients = torch.stack([torch.func.grad(mean_loss)(theta, *task) for task in data])
benefit = share * (gradients @ torch.linalg.solve(hessian, target_gradient))

# %% [markdown]
# ## The same by training again
# With a little more and a little less of one task: (Q(-step) - Q(step)) / (2 step).

# %%
STEP = 1e-3
for k, task in enumerate(TASKS):
    change = zero.clone()
    change[k] = STEP
    retrained = (target_loss(train(-change)) - target_loss(train(change))) / (2 * STEP)
    print(f"{task:14} benefit {benefit[k]:+.5f} nats, by training again {retrained:+.5f}")
    assert abs(retrained - benefit[k]) < 1e-4 * benefit.abs().max()

# %% [markdown]
# ## One round
# The largest benefit moves its volume by m, the others in proportion; volumes are whole rows.

# %%
volumes = torch.tensor([*TASKS.values()], dtype=torch.float64)
beta = M * benefit / benefit.abs().max()
changed = (volumes * (1 + beta)).floor()
print("rows:", dict(zip(TASKS, changed.long().tolist(), strict=True)))
print(f"target loss before {target_loss(theta):.5f}, after the round {target_loss(train(changed / volumes - 1)):.5f}")
assert target_loss(train(changed / volumes - 1)) < target_loss(theta)

# %% [markdown]
# ## The same by the package

# %%
rule = Ideal(m=M)
mix, state = rule.init(volumes)
signal = MixSignal(0, torch.ones(len(TASKS)), benefit_K=benefit, confidence_K=torch.ones(len(TASKS)))
mix, state = rule.update(signal, state)
print("the package's rows:", dict(zip(TASKS, state["volume_K"].long().tolist(), strict=True)))
assert torch.equal(state["volume_K"], changed)
assert torch.allclose(mix.sample_K, changed / changed.sum())

# %% [markdown]
# ## How far a benefit reaches
# The target loss when one task's volume changes and the model is trained again, and what its benefit says of that: the
# tangent at 0. Within the step of one round, the grey band, they are close.

# %%
figure = Figure(figsize=(6, 3), layout="constrained")
axes = figure.subplots()
axes.axvspan(-M, M, color="0.9")
steps = torch.linspace(-0.9, 1.5, 25)
for k, task in enumerate(TASKS):
    losses = [float(target_loss(train(zero.index_fill(0, torch.tensor(k), float(step))))) for step in steps]
    (line,) = axes.plot(steps, losses, label=task)
    axes.plot(steps, float(target_loss(theta)) - float(benefit[k]) * steps, "--", color=line.get_color(), linewidth=1)
axes.set(xlabel="relative change of the task's volume", ylabel="target loss, nats", ylim=(min(losses), max(losses)))
axes.legend()
figure
