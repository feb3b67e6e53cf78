"""What is drawn: how often each task, which rows, with which probability, and the same again after a resume."""

import io
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixalign.data.batches.sampler import MixtureSampler
from mixalign.errors import MixalignError

ROWS = [40, 10, 25]
MIXTURE = np.array([0.5, 0.3, 0.2])
COMPOSITIONS = ["multinomial", "stratified"]
DRAWS = 800  # tolerances are four standard errors of a mean over so many


def make(rows=ROWS, batch_size=8, composition="multinomial", seed=0, mixture=None):
    sampler = MixtureSampler(rows, batch_size, composition, seed)
    if mixture is not None:
        sampler.set_mixture(np.asarray(mixture))
    return sampler


def assert_equal_draws(a, b):
    for name, value in vars(a).items():
        np.testing.assert_array_equal(value, vars(b)[name], err_msg=name)


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_every_row_of_a_task_once_an_epoch(composition):
    """Whatever the mixture does meanwhile: of 10 rows, draws 1-10, 11-20 ... are each a permutation."""
    sampler, seen = make(composition=composition), {k: [] for k in range(3)}
    for step in range(60):
        sampler.set_mixture(np.roll(MIXTURE, step))
        draw = sampler.draw()
        for k in range(3):
            # the order within a batch is random, so an epoch's last rows may come after the next one's first
            seen[k].append(draw.row_B[draw.task_B == k])
    for k, size in enumerate(ROWS):
        times = Counter(np.concatenate(seen[k]).tolist())
        assert {*times} == {*range(size)}
        assert max(times.values()) - min(times.values()) <= 1
    assert sampler.epochs_K.tolist() == [sum(map(len, seen[k])) / size for k, size in enumerate(ROWS)]


def test_epochs_have_different_orders():
    sampler = make([50], batch_size=50)
    orders = [np.argsort(sampler._rows(np.zeros(50, int), np.arange(50) + 50 * epoch)) for epoch in range(4)]
    assert len({tuple(order) for order in orders}) == 4


def test_tasks_and_seeds_have_different_orders():
    def order(seed, task):
        return tuple(make([50, 50], seed=seed)._rows(np.full(50, task), np.arange(50)))

    assert len({order(seed, task) for seed in (0, 1) for task in (0, 1)}) == 4


@pytest.mark.parametrize("mixture", [[0.5, 0.3, 0.2], [0.97, 0.02, 0.01], [1.0, 0.0, 0.0], [1 / 3] * 3])
def test_stratified_counts_are_as_close_as_whole_numbers_can_be_and_right_on_average(mixture):
    sampler = make(batch_size=8, composition="stratified", mixture=mixture)
    expected = 8 * np.array(mixture)
    counts = np.stack([sampler.draw().count_K for _ in range(DRAWS)])
    assert (counts.sum(1) == 8).all()
    assert (np.abs(counts - expected) < 1).all()
    np.testing.assert_allclose(counts.mean(0), expected, atol=4 * 0.5 / np.sqrt(DRAWS))  # one count: sd at most .5


def test_multinomial_frequencies():
    sampler = make(batch_size=8, mixture=MIXTURE)
    counts = np.stack([sampler.draw().count_K for _ in range(DRAWS)])
    spread = np.sqrt(8 * MIXTURE * (1 - MIXTURE))
    np.testing.assert_allclose(counts.mean(0), 8 * MIXTURE, atol=4 * spread.max() / np.sqrt(DRAWS))
    np.testing.assert_allclose(counts.std(0), spread, rtol=0.15)


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_a_draw_agrees_with_itself(composition):
    draw = make(batch_size=16, composition=composition, mixture=MIXTURE).draw()
    assert draw.count_K.tolist() == np.bincount(draw.task_B, minlength=3).tolist()
    assert draw.prob_B.tolist() == MIXTURE[draw.task_B].tolist()
    assert (draw.row_B < np.array(ROWS)[draw.task_B]).all()


def test_samples_of_a_batch_are_in_random_order():
    """Ranks take every n-th sample; sorted tasks would give each rank its own mixture of tasks."""
    sampler = make(batch_size=30, composition="stratified")
    first = [sampler.draw().task_B[0] for _ in range(300)]
    assert np.bincount(first, minlength=3) == pytest.approx([100] * 3, abs=35)  # 4 standard deviations


def test_new_weights_act_on_the_very_next_draw_and_old_draws_keep_their_probability():
    sampler = make(mixture=[1.0, 0.0, 0.0])
    before = sampler.draw()
    sampler.set_mixture(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    after = sampler.draw()
    assert {*before.task_B.tolist()} == {0}
    assert {*after.task_B.tolist()} == {2}
    assert before.prob_B.tolist() == after.prob_B.tolist() == [1.0] * 8
    sampler.set_mixture([0.25, 0.25, 0.5])
    held = sampler.draw()
    sampler.set_mixture([0.8, 0.1, 0.1])
    assert held.prob_B.tolist() == np.array([0.25, 0.25, 0.5])[held.task_B].tolist()


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_a_resumed_sampler_draws_the_same(composition):
    """Bit by bit, also through a file, and also when the mixture goes on moving."""
    whole = make(composition=composition, seed=3)
    for step in range(5):
        whole.set_mixture(np.roll(MIXTURE, step))
        whole.draw()
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed = make(composition=composition, seed=3)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for step in range(5):
        assert_equal_draws(whole.draw(), resumed.draw())
        for sampler in (whole, resumed):
            sampler.set_mixture(np.roll(MIXTURE, step))


def test_a_saved_state_does_not_move_with_the_sampler():
    sampler = make()
    saved = sampler.state_dict()
    sampler.draw()
    assert saved["step"] == 0
    assert saved["cursor_K"].tolist() == [0, 0, 0]


def test_a_draw_depends_on_seed_step_cursor_and_mixture_only():
    """A sampler that is told another one's place draws what that one draws, whatever it did before."""
    there = make(seed=5, mixture=MIXTURE)
    for _ in range(7):
        there.draw()
    here = make(seed=5)
    here.draw()
    here.load_state_dict(there.state_dict())
    np.random.default_rng().random()
    np.random.seed(1)  # noqa: NPY002, the global generator must not matter
    assert_equal_draws(there.draw(), here.draw())


@pytest.mark.parametrize("change", ["seed", "step"])
def test_seeds_and_steps_give_different_draws(change):
    one, other = make(batch_size=64, mixture=MIXTURE), make(batch_size=64, mixture=MIXTURE, seed=change == "seed")
    if change == "step":
        other.step = 1
    assert one.draw().task_B.tolist() != other.draw().task_B.tolist()


def test_refuses_an_empty_batch_and_a_checkpoint_of_other_tasks():
    with pytest.raises(MixalignError, match="`batch_size` is 0"):
        make(batch_size=0)
    with pytest.raises(MixalignError, match="written with 2 tasks, but this run has 3"):
        make().load_state_dict(make([4, 4]).state_dict())


@pytest.mark.parametrize("volume", [3, 10, 11, 25])
def test_an_epoch_of_a_volume_has_exactly_its_rows(volume):
    """10 rows: a part of them, all of them, or every row as often as the volume goes into it, and a part once more."""
    sampler = MixtureSampler([10, 4], volume, volume_K=[volume, 4], seed=3)
    sampler.set_mixture(np.array([1.0, 0.0]))
    epochs = [sampler.draw().row_B for _ in range(5)]
    for epoch in epochs:
        seen = np.bincount(epoch, minlength=10)
        assert set(seen) <= {volume // 10, volume // 10 + 1}
        assert (seen > volume // 10).sum() == volume % 10
    assert len({tuple(np.sort(epoch)) for epoch in epochs}) == 1  # the same rows every time


def test_a_larger_volume_keeps_the_rows_of_a_smaller_one():
    def rows(volume, seed=0):
        sampler = MixtureSampler([100], volume, volume_K=[volume], seed=seed)
        return set(sampler.draw().row_B.tolist())

    assert rows(30) < rows(60) < rows(100) == set(range(100))
    assert rows(30) != rows(30, seed=1)


def test_an_empty_volume_is_refused():
    with pytest.raises(MixalignError, match=r"volumes are \[0, 4\]"):
        MixtureSampler([10, 4], 5, volume_K=[0, 4])


SHARE = st.just(0.0) | st.floats(1e-9, 1)


@st.composite
def jobs(draw):
    """Rows of each task, a batch, a composition, a seed, and some mixtures for the draws that follow."""
    rows_K = draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    share = st.lists(SHARE, min_size=len(rows_K), max_size=len(rows_K)).filter(any)
    mixtures = draw(st.lists(share, min_size=1, max_size=8))
    how = {"batch_size": draw(st.integers(1, 17)), "composition": draw(st.sampled_from(COMPOSITIONS))}
    return rows_K, how | {"seed": draw(st.integers(0, 2**32 - 1))}, [np.array(m) / sum(m) for m in mixtures]


few = settings(max_examples=60, deadline=None, derandomize=True)


@given(jobs())
@few
def test_any_draw_is_a_batch_of_the_mixture(job):
    """Counts sum to the batch, stratified ones lie within 1 of their share, and weight 0 is never drawn."""
    rows_K, how, mixtures = job
    sampler = make(rows_K, **how)
    for mixture in mixtures:
        sampler.set_mixture(mixture)
        draw = sampler.draw()
        assert draw.count_K.sum() == how["batch_size"] == len(draw.task_B)
        assert draw.count_K.tolist() == np.bincount(draw.task_B, minlength=len(rows_K)).tolist()
        assert (draw.count_K[mixture == 0] == 0).all()
        assert (draw.prob_B == mixture[draw.task_B]).all()
        assert ((draw.row_B >= 0) & (draw.row_B < np.array(rows_K)[draw.task_B])).all()
        if how["composition"] == "stratified":
            assert (np.abs(draw.count_K - how["batch_size"] * mixture) < 1 + 1e-9).all()


@given(jobs())
@few
def test_every_row_is_drawn_once_before_any_is_drawn_again(job):
    rows_K, how, mixtures = job
    sampler = make(rows_K, **how)
    seen = [np.zeros(size, int) for size in rows_K]
    for mixture in mixtures:
        sampler.set_mixture(mixture)
        draw = sampler.draw()
        for task, row in zip(draw.task_B, draw.row_B, strict=True):
            seen[task][row] += 1
        assert all(times.max() - times.min() <= 1 for times in seen)
    assert [times.sum() for times in seen] == sampler.cursor_K.tolist()


@given(jobs(), st.integers(0, 8))
@few
def test_a_sampler_resumed_at_any_step_draws_the_same(job, stop):
    rows_K, how, mixtures = job
    whole, begun = make(rows_K, **how), make(rows_K, **how)
    for mixture in mixtures[:stop]:
        for sampler in (whole, begun):
            sampler.set_mixture(mixture)
            sampler.draw()
    resumed = make(rows_K, **how)
    resumed.load_state_dict(begun.state_dict())
    assert_equal_draws(whole.draw(), resumed.draw())  # with the mixture of the checkpoint
    for mixture in mixtures[stop:]:
        for sampler in (whole, resumed):
            sampler.set_mixture(mixture)
        assert_equal_draws(whole.draw(), resumed.draw())
