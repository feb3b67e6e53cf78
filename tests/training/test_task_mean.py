"""Means by task: sums and counts are added up, and divided once."""

import pytest
import torch

from mixalign.training.task_mean import TaskMean

NAN = float("nan")


def measure(num_tasks, *batches, names=("loss",)):
    metric = TaskMean(names, num_tasks)
    for task, *values in batches:
        metric.update(torch.tensor(task), **{n: torch.tensor(v) for n, v in zip(names, values, strict=True)})
    return metric.by_name()


def same(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), equal_nan=True)


def test_means_and_counts_of_each_quantity():
    found = measure(3, ([0, 2, 0], [1.0, 5.0, 2.0], [0.0, 1.0, 1.0]), names=("loss", "accuracy"))
    same(found["count"], [2.0, 0.0, 1.0])
    same(found["loss"], [1.5, NAN, 5.0])  # a task without a sample is nan, not 0
    same(found["accuracy"], [0.5, NAN, 1.0])


def test_every_sample_counts_the_same_over_updates():
    """Task 0 has one sample of 9 in the first batch and three of 1 in the second: 12 / 4, not (9 + 1) / 2."""
    found = measure(2, ([0, 1], [9.0, 4.0]), ([0, 0, 0], [1.0, 1.0, 1.0]))
    same(found["loss"], [3.0, 4.0])
    same(found["count"], [4.0, 1.0])


def test_weights_of_samples():
    """(3 * 1 + 1 * 5) / 4 over two batches; a task whose samples have weight 0 has no mean, and two of its rows."""
    metric = TaskMean(["loss"], 3)
    metric.update(torch.tensor([0, 1, 1]), torch.tensor([3.0, 0.0, 0.0]), loss=torch.tensor([1.0, 2.0, 3.0]))
    metric.update(torch.tensor([0, 2]), loss=torch.tensor([5.0, 7.0]))  # without weights each counts 1
    found = metric.by_name()
    same(found["loss"], [2.0, NAN, 7.0])
    same(found["count"], [2.0, 2.0, 1.0])
    same(found["weight"], [4.0, 0.0, 1.0])


def test_two_ranks_equal_one():
    """What a reduction over ranks does: it adds the sums and the counts."""
    parts = [TaskMean(["loss"], 2), TaskMean(["loss"], 2)]
    parts[0].update(torch.tensor([0, 1]), loss=torch.tensor([9.0, 4.0]))
    parts[1].update(torch.tensor([0, 0, 0]), loss=torch.tensor([1.0, 1.0, 1.0]))
    for name, reduce in parts[0]._reductions.items():
        setattr(parts[0], name, reduce(torch.stack([getattr(p, name) for p in parts])))
    same(parts[0].by_name()["loss"], [3.0, 4.0])


@pytest.mark.parametrize("names", [("loss",), ("loss", "accuracy")])
def test_a_single_task_keeps_its_axis(names):
    """torchmetrics squeezes results of one element."""
    found = measure(1, ([0, 0], *([1.0, 3.0] for _ in names)), names=names)
    assert {*found} == {"count", *names}
    for value_K in found.values():
        same(value_K, [2.0])


def test_reset_forgets():
    metric = TaskMean(["loss"], 1)
    metric.update(torch.tensor([0]), loss=torch.tensor([100.0]))
    metric.by_name()
    metric.reset()
    metric.update(torch.tensor([0]), loss=torch.tensor([1.0]))
    same(metric.by_name()["loss"], [1.0])


def test_takes_any_dtype_and_keeps_no_graph():
    metric = TaskMean(["loss", "accuracy"], 2)
    loss_B = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    metric.update(torch.tensor([0, 1]), loss=loss_B, accuracy=torch.tensor([True, False]))
    found = metric.by_name()
    assert not found["loss"].requires_grad
    assert found["loss"].dtype == torch.float64
    same(found["accuracy"], [1.0, 0.0])
