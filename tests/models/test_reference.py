"""Reference policies that are run beside the model."""

import numpy as np
import pytest
import torch

from mixalign.data.batches.collate import collate
from mixalign.errors import MixalignError
from mixalign.models.forward import score_completions
from mixalign.models.load import LoRA, add_lora
from mixalign.models.reference import LIVE, adapter_off, frozen_copy


@pytest.fixture
def batch(dpo_job):
    return collate(dpo_job.train, np.array([0, 1, 2, 0]), np.array([3, 1, 4, 1]))


def move(model) -> None:
    """Changes every trained weight."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))


def test_adapters_off_is_the_base_whatever_the_adapter_learned(dpo_job, batch):
    model = add_lora(dpo_job.start(), LoRA(r=2))
    reference = adapter_off(model)
    move(model)
    assert reference(batch).equal(score_completions(dpo_job.start(), batch).logp_BS)
    torch.testing.assert_close(reference(batch), batch["reference_logp_BS"], rtol=1e-5, atol=1e-5)
    assert not score_completions(model, batch).logp_BS.allclose(reference(batch), atol=1e-3)  # adapters are on again


@pytest.mark.parametrize("lora", [None, LoRA(r=2)], ids=["full", "lora"])
def test_a_frozen_copy_stays_where_training_started(dpo_job, batch, lora):
    model = add_lora(dpo_job.start(), lora)
    reference = frozen_copy(model)
    wanted = score_completions(model, batch).logp_BS.detach()
    move(model)
    assert reference(batch).equal(wanted)
    assert not reference(batch).requires_grad
    assert any(p.requires_grad for p in model.parameters())  # only the copy was frozen
    assert model.training


def test_adapters_off_needs_adapters(dpo_job):
    with pytest.raises(MixalignError, match=r"reference.mode=adapter_off.*lora=default"):
        adapter_off(dpo_job.start())


def test_both_are_known_by_name():
    assert {"adapter_off": adapter_off, "frozen_copy": frozen_copy} == LIVE
