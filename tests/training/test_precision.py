"""In each precision only weights and activations are in it; what is counted, drawn and compared keeps its digits."""

from math import log

import lightning as L
import numpy as np
import pytest
import torch

from mixalign.config.compose import compose_settings
from mixalign.errors import MixalignError
from mixalign.frozen.score import score_rows
from mixalign.mixers.ama_s import AMAS
from mixalign.models.precision import CAST, PRECISIONS, SHORT, canonical, cast_weights
from mixalign.models.tiny import TinyLlama
from mixalign.objectives.dpo import DPO

FULL = [name for name in PRECISIONS if name not in SHORT]
OFFSET = 1410.34  # nats, which 16 bits round to 1408


class First(L.Callback):
    """The first batch and its losses."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if batch_idx == 0:
            self.batch, self.loss_B = batch, outputs["loss_B"]


@pytest.mark.parametrize("precision", [name for name in FULL if name != "16-mixed"])
@pytest.mark.parametrize("wide", [False, True], ids=["narrow", "wide"])
def test_the_first_loss_is_log_2_and_bookkeeping_keeps_its_digits(small_job, tmp_path, precision, wide):
    tiny = TinyLlama(hidden_size=64 if wide else 16, num_layers=2, num_heads=2, intermediate_size=32, max_positions=64)
    job, seen = small_job(objective=DPO(beta=0.5), tiny=tiny), First()
    for table in (*job.train, *job.validation):
        table.columns.pop("reference_logp")
        table.attach("reference_logp", score_rows(job.start(), table, {}, 64, precision=precision).align(table))
        table.columns["specialist_loss"] = table.columns["specialist_loss"] + np.float32(OFFSET)
    job.run(tmp_path, AMAS(), steps=2, micro=6, callbacks=[seen], trainer_options={"precision": precision})
    assert float((seen.loss_B - log(2)).abs().max()) < 1e-5
    dtypes = {name: value.dtype for name, value in seen.batch.items() if isinstance(value, torch.Tensor)}
    wanted = {"draw_prob_B": torch.float64, "count_K": torch.float64, "reference_logp_BS": torch.float64}
    wanted |= {"specialist_loss_B": torch.float32, "num_tokens_BS": torch.float32}
    assert {name: dtypes[name] for name in wanted} == wanted
    assert seen.loss_B.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*AMP with fp16 is not supported on CPU.*")
def test_a_precision_that_lightning_would_replace_is_refused(dpo_job, tmp_path):
    with pytest.raises(MixalignError, match=r"is 16-mixed, but .* Set `trainer.precision=bf16-mixed`"):
        dpo_job.run(tmp_path, trainer_options={"precision": "16-mixed"})


@pytest.mark.parametrize("precision", CAST)
def test_a_casted_model_is_the_one_that_transformers_loads(precision):
    model = cast_weights(TinyLlama(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32).build(), precision)
    assert {weight.dtype for weight in model.parameters()} == {CAST[precision]}
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}, "rotary frequencies"


@pytest.mark.parametrize(
    ("given", "meant"), [("bf16", "bf16-mixed"), (16, "16-mixed"), (32, "32-true"), ("64", "64-true")]
)
def test_short_names_mean_the_same_in_training_and_scoring(given, meant):
    assert canonical(given) == meant
    assert canonical(meant) == meant


@pytest.mark.parametrize("given", ["transformer-engine", "transformer-engine-float16", "8", "nf4"])
def test_precisions_in_which_frozen_models_are_not_read_are_refused(given):
    with pytest.raises(MixalignError, match=f"`trainer.precision` is '{given}'"):
        compose_settings([f"trainer.precision='{given}'"])
