"""How often validations are made, and of how many rows, by arithmetic."""

import json

import numpy as np
import pytest

from mixalign.config.compose import compose_settings
from mixalign.data.dataset import TaskDataset
from mixalign.jobs.validations import read_in_training, validation_interval
from mixalign.types import TokenRow


def table(rows: int, tokens: int = 10) -> TaskDataset:
    """Rows of as many tokens, each with an answer of one."""
    prompt, answer = np.zeros(tokens - 1, np.int64), [np.zeros(1, np.int64)]
    row = [TokenRow(row_id=n, prompt=prompt, completions=answer, supervised=[np.ones(1, bool)]) for n in range(rows)]
    made = TaskDataset.from_rows("a", row, 1)
    made.attach("reference_logp", np.arange(rows, dtype=np.float32)[:, None])
    return made


def settings(*overrides):
    return compose_settings(["model=pretrained", "model.path=x", "data=local", "batch_size=10", *overrides])


@pytest.mark.parametrize(
    ("overrides", "steps", "held_out", "every"),
    [
        ([], 100, 10, 10),  # 3 * 100 * 10 rows of work, a tenth of it is 300 rows: 30 validations of 10, so the most
        ([], 100, 100, 34),  # 3 of 100 rows
        ([], 100, 250, 50),  # 2 of 128
        (["eval_rows=null"], 100, 250, 100),  # 1 of 250
        (["eval_rows=null"], 100, 2500, 100),  # more than a tenth, but there is always one at the end
        (["lora=default"], 100, 100, 50),  # 2 * 100 * 10 rows of work: 2 of 100 rows
        (["val_every=7"], 100, 2500, 7),
    ],
)
def test_validations_are_a_tenth_of_the_work_at_most(overrides, steps, held_out, every):
    got, why = validation_interval(settings(*overrides), steps, [table(50)], [table(held_out)])
    assert got == every
    assert (f"val_every={every}" in why) is (overrides != ["val_every=7"])


def test_the_tiny_model_is_validated_ten_times_whatever_it_costs():
    tiny = compose_settings([])
    assert tiny.eval_rows is None
    assert validation_interval(tiny, 100, [table(50)], [table(2500)]) == (10, "")
    assert settings().eval_rows == 128


def test_no_more_rows_are_read_than_asked_for_and_they_keep_their_columns():
    few, many = read_in_training([table(5), table(50)], 8, seed=0)
    assert (len(few), len(many)) == (5, 8)
    kept = many.columns["reference_logp"][:, 0]
    assert len({*kept}) == 8
    assert list(kept) == sorted(kept)
    assert np.array_equal(kept, read_in_training([table(50)], 8, seed=0)[0].columns["reference_logp"][:, 0])
    whole = table(50)
    assert read_in_training([whole], None, seed=0)[0] is whole


def test_the_end_reads_all_rows(train, monkeypatch):
    """Validations while it trains see 3 rows of each task; `eval.json` is of all of them, as without the setting."""
    seen = []
    from mixalign.training.module import AlignModule

    step = AlignModule.validation_step

    def count(module, batch, number):
        seen.append((module.trainer.state.fn, len(batch["task_B"])))
        return step(module, batch, number)

    monkeypatch.setattr(AlignModule, "validation_step", count)
    few = train("mixer=uniform", "eval_rows=3", "val_every=2", "export=last")
    assert {rows for stage, rows in seen if stage == "fit"} == {9}
    assert {rows for stage, rows in seen if stage == "validate"} == {24}
    all_of_them = train("mixer=uniform", "val_every=2", "export=last", run="all")
    assert json.loads((few / "eval.json").read_text()) == json.loads((all_of_them / "eval.json").read_text())


def test_rows_that_count_nothing_are_not_drawn_alone():
    rows = table(50)
    rows.attach("weight", np.array([0] * 47 + [1, 2, 3], np.float32))
    for most in (2, 5):
        (few,) = read_in_training([rows], most, seed=0)
        assert len(few) == min(most, 3)
        assert (few.columns["weight"] > 0).all()
