# %% [markdown]
# # AutoMixAlign by hand
#
# AMA-S on three generated tasks in plain PyTorch: no Lightning, no configuration, one file from top to bottom. At the
# end the same updates are made by `mixalign.mixers.ama_s.AMAS`, and the two paths must agree.
#
# Open it as a notebook (Jupytext, VS Code), or run it: `python notebooks/01_ama_by_hand.py`.

# %%
import copy

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from mixalign.data.generated import generate
from mixalign.mixers.ama_s import AMAS
from mixalign.mixers.base import MixSignal
from mixalign.models.tiny import TinyLlama

torch.manual_seed(0)
torch.set_num_threads(1)
TASKS = {"helpful": 2000, "reverse": 600, "compare": 1000}  # rows; the last two are hard
BETA, BATCH, LR = 0.5, 30, 4e-4
SFT_STEPS, SPECIALIST_STEPS, STEPS = 400, 150, 120

# %% [markdown]
# ## Rows to tensors
# Two sequences a row, chosen and rejected; a mask says which tokens belong to the answer.

# %%
source = TinyLlama()
tokenizer = source.tokenizer()


def tensors(rows):
    ids = torch.zeros(len(rows), 2, 24, dtype=torch.long)
    answer = torch.zeros(len(rows), 2, 24)
    for n, row in enumerate(rows):
        prompt = tokenizer(row["prompt"])["input_ids"]
        for side, text in enumerate((row["chosen"], row["rejected"])):
            both = tokenizer(row["prompt"] + text + tokenizer.eos_token)["input_ids"]
            ids[n, side, : len(both)] = torch.tensor(both)
            answer[n, side, len(prompt) : len(both)] = 1
    return ids, answer


data = [tensors(generate(task, rows, "train", 0)) for task, rows in TASKS.items()]


def logps(model, ids, answer):
    """log p(answer | prompt) of both sides, (B, 2)."""
    flat = ids.flatten(0, 1)
    logp = model(input_ids=flat).logits[:, :-1].log_softmax(-1).gather(-1, flat[:, 1:, None])[..., 0]
    return (logp * answer.flatten(0, 1)[:, 1:]).sum(-1).view(-1, 2)


def all_logps(model, ids, answer):
    with torch.no_grad():
        return torch.cat([logps(model, i, a) for i, a in zip(ids.split(200), answer.split(200), strict=True)])


# %% [markdown]
# ## The reference policy: SFT on chosen answers

# %%
reference = source.build()
optimizer = torch.optim.AdamW(reference.parameters(), 3e-3, weight_decay=0.0)
for _ in range(SFT_STEPS):
    picks = [(ids, answer, torch.randint(len(ids), (20,))) for ids, answer in data]
    chosen = torch.cat([logps(reference, ids[j], answer[j])[:, 0] for ids, answer, j in picks])
    tokens = torch.cat([answer[j, 0].sum(-1) for _, answer, j in picks])
    optimizer.zero_grad()
    (-chosen / tokens).mean().backward()
    optimizer.step()
reference_logps = [all_logps(reference, *d) for d in data]


def dpo_loss(logp, reference_logp):
    """-log sigmoid(beta * (log-ratio of chosen minus log-ratio of rejected)), one number a pair."""
    ratio = logp - reference_logp
    return -F.logsigmoid(BETA * (ratio[:, 0] - ratio[:, 1]))


# %% [markdown]
# ## One specialist a task, and its loss on every row

# %%
specialist_losses = []
for (ids, answer), ref in zip(data, reference_logps, strict=True):
    model = copy.deepcopy(reference)
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=0.0)
    for _ in range(SPECIALIST_STEPS):
        j = torch.randint(len(ids), (BATCH,))
        optimizer.zero_grad()
        dpo_loss(logps(model, ids[j], answer[j]), ref[j]).mean().backward()
        optimizer.step()
    specialist_losses.append(dpo_loss(all_logps(model, ids, answer), ref))
for task, loss in zip(TASKS, specialist_losses, strict=True):
    print(f"specialist {task}: {loss.mean():.3f} nats (the reference has {torch.tensor(2.0).log():.3f})")

# %% [markdown]
# ## The generalist
# alpha = (1 - c) q + c / K draws the batch; the model descends on the plain mean of max(loss - specialist loss, 0);
# q moves by exp(eta * estimate), where the estimate divides by the probability of the draw.

# %%
K, ETA, C = len(TASKS), 0.1, 0.1
model = copy.deepcopy(reference)
optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=0.0)
log_q = torch.full((K,), 1 / K, dtype=torch.float64).log()
path, seen = [], []
for step in range(STEPS):
    alpha = (1 - C) * log_q.exp() + C / K
    path.append(alpha)
    drawn = torch.multinomial(alpha, BATCH, replacement=True)
    excess = []
    for k, (ids, answer) in enumerate(data):
        j = torch.randint(len(ids), (int((drawn == k).sum()),))
        loss = dpo_loss(logps(model, ids[j], answer[j]), reference_logps[k][j]) if len(j) else torch.zeros(0)
        excess.append((loss - specialist_losses[k][j]).clamp_min(0))
    optimizer.zero_grad()
    torch.cat(excess).mean().backward()
    optimizer.step()
    estimate = torch.stack([e.detach().double().sum() for e in excess]) / (BATCH * alpha)
    seen.append(estimate)
    log_q = (log_q + ETA * estimate).log_softmax(0)
    if step % 20 == 0 or step == STEPS - 1:
        shares = ", ".join(f"{task} {a:.2f}" for task, a in zip(TASKS, alpha.tolist(), strict=True))
        print(f"step {step:3d}: {shares}; excess {torch.cat(excess).mean():.3f}")

# %% [markdown]
# ## The same by the library
# The mixer gets the measurements of the loop above, and must take the same path.

# %%
mixer = AMAS(eta=ETA, c=C)
mix, state = mixer.init(torch.tensor([float(n) for n in TASKS.values()]))
largest = 0.0
for step, (alpha, estimate) in enumerate(zip(path, seen, strict=True)):
    largest = max(largest, float((mix.sample_K - alpha).abs().max()))
    signal = MixSignal(step, torch.ones(K), excess_K=estimate, excess_iw_K=estimate)
    mix, state = mixer.update(signal, state)
print(f"largest difference of the two paths: {largest:.1e}")
assert largest < 1e-12

# %%
axes = Figure(figsize=(6, 2.5), layout="constrained").subplots()
axes.stackplot(range(STEPS), torch.stack(path).T.tolist(), labels=list(TASKS))
axes.set(xlabel="step", ylabel="share of the batch", ylim=(0, 1))
axes.legend().figure
