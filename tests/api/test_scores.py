"""A script of one's own with a plain Trainer is the training that the program does."""

import lightning as L
import numpy as np
import pytest
import torch

from mixalign import (
    AMAR,
    AMAS,
    DPO,
    SFT,
    AlignModule,
    GroupDRO,
    MixalignError,
    Mixing,
    MixtureData,
    Optimizer,
    TaskSpec,
    Temperature,
    probes_for,
    score_reference,
    score_specialist,
)
from mixalign.mixers.doge import DoGE
from mixalign.mixers.ideal import Ideal
from mixalign.models.tiny import byte_tokenizer
from mixalign.objectives.frozen_losses import frozen_losses

ROWS = [{"prompt": f"{n} + 1 = ", "chosen": f"{n + 1}", "rejected": f"{n}"} for n in range(20)]


def plain_trainer(*callbacks, **options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    options = {"max_steps": 5, "accelerator": "cpu", "enable_model_summary": False} | quiet | options
    return L.Trainer(callbacks=list(callbacks), **options)


def script(job, mixer, *callbacks, data=None, optimizer=None, **options):
    """What a user writes: nothing is said twice."""
    module = AlignModule(job.start(), job.objective, optimizer=optimizer or Optimizer(1e-2, warmup_steps=0))
    data = data or MixtureData(job.train, job.validation, batch_size=12)
    mixing = Mixing(mixer)
    trainer = plain_trainer(*callbacks, mixing, **options)
    trainer.fit(module, datamodule=data)
    return module, mixing


@pytest.mark.parametrize("mixer", [AMAS(), AMAR(), Temperature(float("inf")), GroupDRO()])
def test_the_same_bits_as_the_programs_own_training(dpo_job, tmp_path, mixer):
    """Tasks, composition, what is descended on and the clip come from the mixer and the data."""
    module, mixing = script(dpo_job, mixer, *probes_for(mixer))
    wanted = dpo_job.run(tmp_path, mixer, steps=5)
    assert torch.equal(mixing.mix.sample_K, wanted.mixing.mix.sample_K)
    for name, weight in module.model.named_parameters():
        assert torch.equal(weight, wanted.weights()[f"{name}"]), name
    for name, value_K in wanted.module.evaluation.items():
        assert torch.equal(module.evaluation[name], value_K)


def test_scores_are_those_of_the_models(small_job):
    job = small_job()
    other = job.start()
    data = MixtureData(job.train, job.validation)
    wanted = [table.columns.pop("reference_logp").copy() for table in (*job.train, *job.validation)]
    with pytest.raises(MixalignError, match=r"`objective` is dpo.*score_reference"):
        score_specialist(other, data, job.tasks[0], job.objective)
    score_reference(job.start(), data)
    for table, logp_NS in zip((*job.train, *job.validation), wanted, strict=True):
        np.testing.assert_array_equal(table.columns["reference_logp"], logp_NS)
    score_specialist(other, data, "reverse", job.objective)
    ln2 = np.full(len(job.train[1]), np.log(2), np.float32)
    np.testing.assert_allclose(job.train[1].columns["specialist_loss"], ln2, atol=1e-6)
    again = frozen_losses(job.objective, job.validation[1], wanted[4], 1)
    np.testing.assert_allclose(job.validation[1].columns["specialist_loss"], again, atol=1e-6)
    with pytest.raises(MixalignError, match="`task` is 'revers'"):
        score_specialist(other, data, "revers", job.objective)


def test_rows_paths_and_specs_become_tables(tmp_path):
    file = tmp_path / "sums.csv"
    file.write_text("question,chosen,rejected\n" + "".join(f"{n} + 2 = ,{n + 2},{n}\n" for n in range(20)))
    tasks = {"rows": ROWS, "file": TaskSpec(path=str(file), columns={"prompt": "question"}), "sft": ROWS[:5]}
    data = MixtureData.from_tasks(tasks, byte_tokenizer(), DPO().form, validation_fraction=0.2)
    assert data.tasks == ["rows", "file", "sft"]
    assert [len(table) for table in data.train] == [16, 16, 4]
    assert [len(table) for table in data.validation] == [4, 4, 1]
    assert MixtureData.from_tasks({"a": ROWS}, byte_tokenizer(), SFT().form).train[0].num_completions == 1


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        ({"a": 5}, "task `a` is int, but must be a path"),
        ({"a": ["text"]}, "task `a` is list, but must be a path"),
        ({"a": [{"prompt": "x"}]}, "Task `a`, its rows, row 1: the columns are prompt"),
        ({"a": "nowhere.jsonl"}, r"Task `a`: nowhere.jsonl does not exist"),
        ({"a": []}, r"Task `a` is empty: its rows has no rows"),
    ],
)
def test_tasks_that_cannot_be_read_are_named(tasks, says):
    with pytest.raises(MixalignError, match=says):
        MixtureData.from_tasks(tasks, byte_tokenizer(), DPO().form)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_steps": -1, "max_epochs": 1}, "`max_steps` of the Trainer is -1"),
        ({"gradient_clip_val": 1.0}, r"Optimizer\(max_grad_norm"),
        ({"mixer": DoGE()}, r"DoGE reads gradient_KK.*probes_for"),
        ({"mixer": Ideal()}, "Ideal moves volumes between trainings"),
    ],
)
def test_what_a_script_leaves_out_is_said(dpo_job, options, says):
    options = dict(options)
    with pytest.raises(MixalignError, match=says):
        script(dpo_job, options.pop("mixer", AMAS()), **options)


def test_without_specialists_ama_cannot_begin(dpo_job):
    for table in dpo_job.train:
        table.columns.pop("specialist_loss")
    with pytest.raises(MixalignError, match="the batches carry no specialist losses"):
        script(dpo_job, AMAS())


def test_a_module_wants_an_optimizer_and_tasks(dpo_job):
    with pytest.raises(MixalignError, match="`optimizer` of AlignModule is missing"):
        AlignModule(dpo_job.start(), dpo_job.objective)
    module = AlignModule(dpo_job.start(), dpo_job.objective, optimizer=Optimizer(1e-3))
    with pytest.raises(MixalignError, match="knows no tasks"):
        plain_trainer().validate(module, [], verbose=False)
    with pytest.raises(MixalignError, match="moves the draws of a MixtureData"):
        plain_trainer(Mixing(AMAS())).validate(module, [], verbose=False)
