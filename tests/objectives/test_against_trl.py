"""Losses, log-probabilities and gradients of TRL 1.16's trainers and of ours, on the same rows and the same weights.

TRL's trainers give a mean over a batch; a batch of one row therefore shows the loss and the gradient of each sample.
"""

import warnings
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import pytest
import torch

from mixalign.data.batches.collate import collate
from mixalign.data.tokens.tokenise import tokenise
from mixalign.frozen.score import score_rows
from mixalign.losses.kto import kl_estimate
from mixalign.models.forward import score_completions
from mixalign.models.tiny import TinyLlama
from mixalign.objectives.dpo import DPO
from mixalign.objectives.kto import KTO
from mixalign.objectives.sft import SFT

pytest.importorskip("trl", reason="needs the extra `trl`")

TINY = TinyLlama(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24, max_positions=64)
BETA = 0.7
MAX_LENGTH = 48
PAIRS = [
    {"prompt": "1+1=", "chosen": "2", "rejected": "33"},
    {"prompt": "The sky is ", "chosen": "blue today.", "rejected": "green"},
    {"prompt": "q", "chosen": "a", "rejected": "a rather long answer that goes on"},
    {"prompt": "caf\u00e9 ", "chosen": "\u4f60\u597d", "rejected": "\U0001f642"},
    # cut at the end
    {"prompt": "long " * 6, "chosen": "an answer that is cut off", "rejected": "no"},
    {"prompt": "same start?", "chosen": " It is so.", "rejected": " It is not."},
]
ANSWERS = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS]
LONG = {"prompt": PAIRS[4]["prompt"], "completion": "no"}  # the answer above it is cut behind its prompt
UNCUT = [*ANSWERS[:3], {"prompt": "q2", "completion": PAIRS[2]["rejected"]}, LONG, ANSWERS[5]]
VERDICTS = [row | {"label": n % 3 != 1} for n, row in enumerate(UNCUT)]


def models():
    """A reference, and a policy that has moved away from it."""
    reference = TINY.build()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in reference.parameters():
            if weight.ndim > 1:
                weight *= 5
        policy = deepcopy(reference)
        for weight in policy.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return policy, reference


@contextmanager
def quiet():
    """TRL's own warnings say nothing about these numbers."""
    import datasets

    datasets.disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def settings(folder) -> dict:
    """Single precision on the CPU, and the same numbers in training and evaluation."""
    return {
        "output_dir": str(folder),
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "max_length": MAX_LENGTH,
        "save_strategy": "no",
    }


@pytest.fixture(scope="module")
def dpo(tmp_path_factory):
    """TRL's trainer, and the rows as ours read them, with the reference's scores."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    policy, reference = models()
    tokenizer = TINY.tokenizer()
    with quiet():
        trainer = DPOTrainer(
            model=deepcopy(policy),
            ref_model=deepcopy(reference),
            args=DPOConfig(beta=BETA, **settings(tmp_path_factory.mktemp("dpo"))),
            train_dataset=Dataset.from_list(PAIRS),
            processing_class=tokenizer,
        )
    table, _ = tokenise(PAIRS, tokenizer, task="t", form="preference", max_length=MAX_LENGTH)
    table.attach("reference_logp", score_rows(reference, table, {}).align(table))
    return trainer, policy, table


def kto_trainer(rows, folder, swapped=False, **options):
    """TRL's trainer with all rows in one batch, and the rows as ours read them, with the reference's scores."""
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    policy, reference = reversed(models()) if swapped else models()
    tokenizer = TINY.tokenizer()
    kind = options.get("loss_type", "kto")
    with quiet():
        trainer = KTOTrainer(
            model=deepcopy(policy),
            ref_model=deepcopy(reference),
            args=KTOConfig(beta=0.05, per_device_train_batch_size=2 * len(rows), **options, **settings(folder)),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
    table, _ = tokenise(rows, tokenizer, task="t", form=KTO(loss=kind).form, max_length=MAX_LENGTH)
    table.attach("reference_logp", score_rows(reference, table, {}).align(table))
    return trainer, policy, table


@pytest.fixture(scope="module", params=["kto", "kto, swapped", "apo_zero_unpaired"])
def kto(request, tmp_path_factory):
    """With the KL estimate clamped at 0, above 0 where policy and reference are swapped, and without one."""
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    loss, _, swapped = request.param.partition(", ")
    trained = kto_trainer(VERDICTS, tmp_path_factory.mktemp("kto"), bool(swapped), loss_type=loss, **weights)
    assert (theirs(trained[0], EVERY)[2]["kl"] > 0.1) == bool(swapped)
    return KTO(0.05, loss, **weights), *trained


@pytest.fixture(scope="module")
def sft(tmp_path_factory):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    policy, _ = models()
    tokenizer = TINY.tokenizer()
    with quiet():
        trainer = SFTTrainer(
            model=deepcopy(policy),
            args=SFTConfig(completion_only_loss=True, **settings(tmp_path_factory.mktemp("sft"))),
            train_dataset=Dataset.from_list(ANSWERS),
            processing_class=tokenizer,
        )
    table, _ = tokenise(ANSWERS, tokenizer, task="t", form="supervised", max_length=MAX_LENGTH)
    return trainer, policy, table


def theirs(trainer, rows: list[int]) -> tuple[float, dict, dict]:
    """TRL's loss of a batch, its gradients, and what it logged beside the loss."""
    inputs = trainer.data_collator([trainer.train_dataset[n] for n in rows])
    trainer.model.train()
    trainer.model.zero_grad()
    trainer._metrics["train"].clear()
    with quiet():
        loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    grads = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    return loss.item(), grads, {key: values[-1] for key, values in trainer._metrics["train"].items()}


def ours(objective, policy, table, rows: list[int], weight_B=None) -> tuple[torch.Tensor, dict]:
    """Our loss of each row, and the gradients of their weighted sum; the mean unless told otherwise."""
    policy.zero_grad()
    batch = collate([table], np.zeros(len(rows), int), np.array(rows))
    if objective.form == "mismatched":
        with torch.no_grad():
            batch["kl_K"] = kl_estimate(objective.kl_sums(score_completions(policy, batch).logp_BS, batch, 1))
    loss_B = objective(policy, batch)["loss"]
    (loss_B.mean() if weight_B is None else (weight_B * loss_B).sum()).backward()
    return loss_B.detach(), {name: p.grad.clone() for name, p in policy.named_parameters()}


def assert_same_gradients(found: dict, wanted: dict) -> None:
    """To 1e-5 of each tensor's norm."""
    assert set(found) == set(wanted)
    for name, grad in wanted.items():
        assert float((found[name] - grad).norm()) < 1e-5 * float(grad.norm()), name
        assert float(grad.norm()) > 1e-6, name


EVERY = list(range(len(PAIRS)))
ONE_BY_ONE = [[n] for n in EVERY]
BATCHES = [*ONE_BY_ONE, EVERY, [4, 2], [0, 3, 5]]


def test_pairs_have_the_same_tokens(dpo):
    trainer, _, table = dpo
    assert len(table) == len(trainer.train_dataset) == len(PAIRS)
    for row, other in zip((table[n] for n in EVERY), trainer.train_dataset, strict=True):
        room = MAX_LENGTH - len(other["prompt_ids"])  # TRL cuts in its collator
        assert row["prompt"].tolist() == other["prompt_ids"]
        assert row["completions"][0].tolist() == other["chosen_ids"][:room]
        assert row["completions"][1].tolist() == other["rejected_ids"][:room]
    assert len(table[4]["completions"][0]) == MAX_LENGTH - len(table[4]["prompt"])  # one row is cut


@pytest.fixture
def trl_loss(dpo, monkeypatch):
    """Makes TRL's trainer compute another loss."""

    def choose(*names, weights=(1.0,), smoothing=0.0, beta=BETA):
        trainer = dpo[0]
        for name, value in (("loss_types", names), ("loss_weights", weights)):
            monkeypatch.setattr(trainer, name, list(value))
        monkeypatch.setattr(trainer, "label_smoothing", smoothing)
        monkeypatch.setattr(trainer, "beta", beta)

    return choose


OF_TRL = [(name, 0.0) for name in ("sigmoid", "robust", "hinge", "ipo", "sigmoid_norm", "apo_zero", "apo_down")]
OF_TRL += [("robust", 0.2)]


@pytest.mark.parametrize("rows", BATCHES, ids=str)
@pytest.mark.parametrize(("name", "smoothing"), OF_TRL, ids=str)
def test_dpo_losses_and_gradients_are_those_of_trl(dpo, trl_loss, name, smoothing, rows):
    trainer, policy, table = dpo
    beta = 0.05 if name.startswith("apo") else BETA  # far out their gradients are too small to compare
    trl_loss(name, smoothing=smoothing, beta=beta)
    wanted, wanted_grads, _ = theirs(trainer, rows)
    loss_B, grads = ours(DPO(beta, smoothing, name), policy, table, rows)
    assert loss_B.mean().item() == pytest.approx(wanted, rel=1e-5)
    assert abs(wanted - np.log(2)) > 1e-3  # the policy is not the reference
    if name != "hinge" or wanted > 0:
        assert_same_gradients(grads, wanted_grads)


@pytest.mark.parametrize("rows", ONE_BY_ONE, ids=str)
def test_the_nll_term_is_trls_sft_loss_of_a_row(dpo, trl_loss, rows):
    trainer, policy, table = dpo
    trl_loss("ipo", "sft", weights=(1.0, 0.3))
    wanted, wanted_grads, _ = theirs(trainer, rows)
    loss_B, grads = ours(DPO(BETA, loss="ipo", nll_weight=0.3), policy, table, rows)
    assert loss_B.item() == pytest.approx(wanted, rel=1e-5)
    assert_same_gradients(grads, wanted_grads)


@pytest.mark.parametrize("name", ["ipo", "sigmoid_norm"])
def test_margins_of_means_are_logged_as_sums(dpo, trl_loss, name):
    trainer, policy, table = dpo
    trl_loss(name)
    for n in EVERY:
        margin = theirs(trainer, [n])[2]["rewards/margins"]
        with torch.no_grad():
            scores = DPO(BETA, loss=name)(policy, collate([table], np.zeros(1, int), np.array([n])))
        assert scores["margin"].item() == pytest.approx(margin, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("rows", ONE_BY_ONE, ids=str)
def test_log_probabilities_are_those_of_trl(dpo, rows):
    trainer, policy, table = dpo
    logged = theirs(trainer, rows)[2]
    batch = collate([table], np.zeros(1, int), np.array(rows))
    with torch.no_grad():
        logp_BS = score_completions(policy, batch).logp_BS
        scores = DPO(BETA)(policy, batch)
    assert logp_BS[0].tolist() == pytest.approx([logged["logps/chosen"], logged["logps/rejected"]], rel=1e-5)
    margin = logged["rewards/margins"]
    spacing = 1e-6 * float(logp_BS.abs().max())  # TRL's sums are float32, and their differences lose digits
    assert scores["margin"].item() == pytest.approx(margin, rel=1e-5, abs=BETA * spacing)
    assert scores["accuracy"].item() == logged["rewards/accuracies"]


def test_reference_log_probabilities_are_those_of_trl(dpo):
    trainer, _, table = dpo
    for n in EVERY:
        inputs = trainer.data_collator([trainer.train_dataset[n]])
        chosen, rejected = trainer.compute_ref_log_probs(trainer.ref_model, inputs)
        wanted = [chosen.item(), rejected.item()]
        assert table.columns["reference_logp"][n].tolist() == pytest.approx(wanted, rel=1e-5)


def test_answers_have_the_same_tokens_and_labels(sft):
    trainer, _, table = sft
    assert len(table) == len(trainer.train_dataset) == len(ANSWERS)
    for row, other in zip((table[n] for n in EVERY), trainer.train_dataset, strict=True):
        completion = row["completions"][0].tolist()
        assert [*row["prompt"].tolist(), *completion] == other["input_ids"]
        assert [-100] * len(row["prompt"]) + completion == other["labels"]


@pytest.mark.parametrize("rows", ONE_BY_ONE, ids=str)
def test_sft_losses_and_gradients_of_a_row_are_those_of_trl(sft, rows):
    trainer, policy, table = sft
    wanted, wanted_grads, _ = theirs(trainer, rows)
    loss_B, grads = ours(SFT(), policy, table, rows)
    assert loss_B.item() == pytest.approx(wanted, rel=1e-5)
    assert_same_gradients(grads, wanted_grads)


@pytest.mark.parametrize("rows", [EVERY, [4, 2], [0, 3, 5]], ids=str)
def test_sft_batches_of_trl_are_our_rows_weighted_by_their_tokens(sft, rows):
    """TRL takes the mean over the batch's tokens; ours is one number a row, and the mixture weighs rows."""
    trainer, policy, table = sft
    wanted, wanted_grads, _ = theirs(trainer, rows)
    tokens_B = torch.from_numpy(table.num_tokens_NS[rows, 0]).float()
    weight_B = tokens_B / tokens_B.sum()
    loss_B, grads = ours(SFT(), policy, table, rows, weight_B)
    assert float((weight_B * loss_B).sum()) == pytest.approx(wanted, rel=1e-5)
    assert loss_B.mean().item() != pytest.approx(wanted, rel=1e-3)
    assert_same_gradients(grads, wanted_grads)


def test_kto_rows_and_mismatched_answers_are_those_of_trl(kto):
    objective, trainer, _, table = kto
    assert len(table) == len(trainer.train_dataset) == len(VERDICTS)
    assert table.columns["label"].tolist() == [row["label"] for row in VERDICTS]
    for row, other in zip((table[n] for n in EVERY), trainer.train_dataset, strict=True):
        room = MAX_LENGTH - len(other["prompt_ids"])
        assert row["prompt"].tolist() == other["prompt_ids"]
        assert row["completions"][0].tolist() == other["completion_ids"][:room]
        if objective.loss == "kto":
            assert row["completions"][1].tolist() == other["KL_completion_ids"][:room]
            assert (len(other["KL_completion_ids"]) > room) == (other["prompt_ids"] == table[4]["prompt"].tolist())


@pytest.mark.parametrize("rows", [EVERY, [4, 2], [0, 3, 5], [1, 4], [0]], ids=str)
def test_kto_losses_and_gradients_are_those_of_trl(kto, rows):
    """Every batch has a KL estimate of its own, from the rows of the batch."""
    objective, trainer, policy, table = kto
    wanted, wanted_grads, logged = theirs(trainer, rows)
    loss_B, grads = ours(objective, policy, table, rows)
    assert loss_B.mean().item() == pytest.approx(wanted, rel=1e-5)
    assert_same_gradients(grads, wanted_grads)
    batch = collate([table], np.zeros(len(rows), int), np.array(rows))
    if objective.loss == "kto":
        with torch.no_grad():
            ratio_B = (score_completions(policy, batch).logp_BS - batch["reference_logp_BS"])[:, 1]
        assert logged["kl"] == pytest.approx(max(float(ratio_B.mean()), 0), rel=1e-4, abs=1e-5)


def test_pairs_are_taken_apart_as_by_trl(tmp_path):
    pairs = [*PAIRS[:4], PAIRS[5]]
    trainer, _, table = kto_trainer(pairs, tmp_path)
    assert len(table) == len(trainer.train_dataset) == 2 * len(pairs)
    for n, other in enumerate(trainer.train_dataset):
        room = MAX_LENGTH - len(other["prompt_ids"])
        assert table[n]["completions"][0].tolist() == other["completion_ids"][:room]
        assert table[n]["completions"][1].tolist() == other["KL_completion_ids"][:room]
        assert table.columns["label"][n] == other["label"]
