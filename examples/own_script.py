"""AMA-S in a Lightning script of your own: two tasks, their specialists, and one model for both.

For a model of your own: `start = AutoModelForCausalLM.from_pretrained(...)`, and its `AutoTokenizer`.
Rows may also be files: `{"larger": "larger.jsonl", "polite": "my-org/polite"}`.
"""

import copy

import lightning as L

from mixalign import (
    AMAS,
    DPO,
    AlignModule,
    Mixing,
    MixtureData,
    Optimizer,
    TinyLlama,
    score_reference,
    score_specialist,
)


def larger() -> list[dict]:
    """The larger one of two digits, against the smaller one."""
    pairs = [(a, b) for a in range(10) for b in range(10) if a != b]
    return [{"prompt": f"{a} or {b}? ", "chosen": f"{max(a, b)}", "rejected": f"{min(a, b)}"} for a, b in pairs]


def polite() -> list[dict]:
    """An answer with a please, against one without."""
    return [{"prompt": f"Ask for {n} cups. ", "chosen": f"{n}, please.", "rejected": f"{n} now."} for n in range(200)]


def fit(model, data: MixtureData, *callbacks: L.Callback, steps: int) -> AlignModule:
    module = AlignModule(model, objective, optimizer=Optimizer(lr=3e-3))
    trainer = L.Trainer(
        max_steps=steps, callbacks=list(callbacks), logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return module


L.seed_everything(0, verbose=False)
objective = DPO(beta=0.1)
tokenizer, start = TinyLlama().tokenizer(), TinyLlama().build()
data = MixtureData.from_tasks({"larger": larger(), "polite": polite()}, tokenizer, objective.form, batch_size=16)
score_reference(start, data)

for task, rows in zip(data.tasks, data.train, strict=True):
    specialist = fit(copy.deepcopy(start), MixtureData([rows], batch_size=16), steps=60)
    score_specialist(specialist.model, data, task, objective)

mixing = Mixing(AMAS(eta=1.0))
generalist = fit(start, data, mixing, steps=100)
for k, task in enumerate(data.tasks):
    excess, share = generalist.evaluation["excess"][k], mixing.mix.sample_K[k]
    print(f"{task:8} excess {excess:.3f} nats on validation rows, {share:.0%} of the draws")
