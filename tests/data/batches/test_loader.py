"""Loaders: ranks and micro-batches share out one global batch; evaluation sees every row once."""

import numpy as np
import pytest
import torch

from mixalign.data.batches.loader import EvalLoader, MixtureLoader
from mixalign.data.batches.sampler import MixtureSampler

SIZES = (12, 5, 7)


@pytest.fixture
def tables(numbered):
    return [numbered(task, size) for task, size in enumerate(SIZES)]


def loader(tables, steps=3, **parts):
    sampler = MixtureSampler(SIZES, 8, "multinomial", seed=4)
    sampler.set_mixture(np.array([0.5, 0.2, 0.3]))
    return MixtureLoader(tables, sampler, steps, **parts)


def samples(batch):
    """(row, task, probability) of each sample."""
    names = ("row_id_B", "task_B", "draw_prob_B")
    return list(zip(*(batch[name].tolist() for name in names), strict=True))


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 2)])
def test_ranks_and_micro_batches_partition_the_global_batch(tables, world, accumulate):
    """However it is shared out, a step sees the same samples, and every part knows the counts of the whole."""
    shares = [list(loader(tables, accumulate=accumulate, rank=rank, world=world)) for rank in range(world)]
    for step, whole in enumerate(loader(tables)):
        parts = [batch for share in shares for batch in share[step * accumulate : (step + 1) * accumulate]]
        assert {len(part["task_B"]) for part in parts} == {8 // world // accumulate}
        assert sorted(s for part in parts for s in samples(part)) == sorted(samples(whole))
        for part in parts:
            assert part["count_K"].tolist() == torch.bincount(whole["task_B"], minlength=3).tolist()
            assert (part["count_K"].dtype, part["draw_prob_B"].dtype) == (torch.float64, torch.float64)


def test_has_a_length_and_ends(tables):
    """Without a length Lightning loses a batch."""
    batches = loader(tables, steps=3, accumulate=2)
    assert len(batches) == len(list(batches)) == 6


def test_new_weights_act_on_the_next_batch(tables):
    batches = loader(tables)
    stream = iter(batches)
    next(stream)
    batches.sampler.set_mixture(np.array([0.0, 1.0, 0.0]))
    following = next(stream)
    assert following["task_B"].tolist() == [1] * 8
    assert following["draw_prob_B"].tolist() == [1.0] * 8


def test_goes_on_where_a_checkpoint_was_written(tables):
    whole = [samples(batch) for batch in loader(tables, steps=4)]
    first = loader(tables, steps=4)
    stream = iter(first)
    seen = [samples(next(stream)) for _ in range(2)]
    second = loader(tables, steps=4)
    second.load_state_dict(first.state_dict())
    assert seen + [samples(batch) for batch in second] == whole


@pytest.mark.parametrize("world", [1, 2, 5, 30])
def test_evaluation_sees_every_row_once(tables, world):
    seen, lengths = [], []
    for rank in range(world):
        share = EvalLoader(tables, 4, rank, world)
        batches = list(share)
        assert len(batches) == len(share)
        assert all(len(batch["task_B"]) <= 4 for batch in batches)
        seen += [row for batch in batches for row in batch["row_id_B"].tolist()]
        lengths.append(sum(len(batch["task_B"]) for batch in batches))
    assert sorted(seen) == sorted(1000 * task + n for task, size in enumerate(SIZES) for n in range(size))
    assert max(lengths) - min(lengths) <= 1


def test_evaluation_begins_with_the_longest_rows(tables):
    """The largest batch comes first, so that memory runs out at once or never; and little is padded."""
    widths = [batch["input_ids"].shape[1] for batch in EvalLoader(tables, 4)]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[-1]
