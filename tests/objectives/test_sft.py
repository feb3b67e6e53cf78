"""SFT on numbers that a reader can check: the loss of a row is minus its log-probability over its tokens."""

import pytest
import torch

from mixalign.data.batches.collate import collate
from mixalign.errors import MixalignError
from mixalign.objectives.sft import SFT
from mixalign.types import Batch


def test_rows_count_the_same_whatever_their_length():
    # 6 nats over 3 tokens and 40 over 10: 2 and 4 nats a token; their mean is 3, not 46 / 13
    logp_BS = torch.tensor([[-6.0], [-40.0]], dtype=torch.float64)
    scores = SFT().scores(logp_BS, Batch(num_tokens_BS=torch.tensor([[3.0], [10.0]])))
    assert scores["loss"].tolist() == [2.0, 4.0]
    assert scores["loss"].dtype == torch.float32
    assert set(scores) == {"loss"}


def test_accuracy_counts_tokens_and_is_left_out_of_training(sft_job):
    model = sft_job.start()
    batch = collate(sft_job.train, *torch.tensor([[0, 1, 2], [1, 2, 3]]).numpy())
    trained = SFT()(model, batch)
    assert set(trained) == {"loss"}
    assert trained["loss"].requires_grad
    with torch.no_grad():
        seen = SFT()(model, batch)
    assert seen["loss"].equal(trained["loss"])
    logits_NV = model(input_ids=batch["input_ids"]).logits.flatten(0, 1)[batch["predict_N"]]
    hit_N = (logits_NV.argmax(1) == batch["target_N"]).float()
    wanted = [float(hit_N[batch["sequence_N"] == b].mean()) for b in range(3)]
    assert seen["accuracy"].tolist() == pytest.approx(wanted)


def test_the_loss_is_torchs_cross_entropy_of_each_row(sft_job):
    model = sft_job.start()
    batch = collate(sft_job.train, *torch.tensor([[0, 1, 2], [1, 2, 3]]).numpy())
    logits_NV = model(input_ids=batch["input_ids"]).logits.flatten(0, 1)[batch["predict_N"]]
    for b, loss in enumerate(SFT()(model, batch)["loss"]):
        mine = batch["sequence_N"] == b
        wanted = torch.nn.functional.cross_entropy(logits_NV[mine], batch["target_N"][mine])
        torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-6)


def test_tasks_have_no_settings_of_their_own():
    assert SFT().for_tasks([{}, {}]) == SFT()
    with pytest.raises(MixalignError, match=r"objective.beta` is no setting of sft. `sft` has no per-task settings"):
        SFT().for_tasks([{}, {"beta": 0.1}])
