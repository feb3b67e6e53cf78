"""What processes of one job ask each other, on one process and on two."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mixalign.errors import MixalignError
from mixalign.together.agree import agree, decide, is_connected, is_first, rank, total, wait, world
from tests.together.processes import SECONDS, end, fork, forks


def refuse():
    raise MixalignError("`seed` is odd.")


def test_one_process_is_the_first_of_one():
    assert (is_connected(), rank(), world(), is_first()) == (False, 0, 1, True)
    wait()
    value = ["x"]
    assert agree(value) is value
    assert decide(lambda: 3) == 3
    assert total(torch.tensor([2.0])).tolist() == [2.0]
    with pytest.raises(MixalignError, match="`seed` is odd"):
        decide(refuse)


def ask(number: int, folder: Path) -> None:
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=number, world_size=2)
    answers = [is_connected(), rank(), world(), is_first(), agree({"rank": rank(), 1: Path("x")}), decide(rank)]
    answers.append(total(torch.tensor([1.0, 10.0 * rank()])).tolist())
    try:
        decide(refuse if is_first() else rank)
    except MixalignError as error:
        answers.append(str(error))
    (folder / f"here{rank()}").touch()
    wait()
    answers.append(len(list(folder.glob("here?"))))
    (folder / f"answers{number}").write_text(repr(answers))
    dist.destroy_process_group()


@forks
def test_two_processes_have_the_answers_of_the_first(tmp_path):
    both = [fork(ask, number, tmp_path) for number in range(2)]
    try:
        for process in both:
            process.join(SECONDS)
        assert [process.exitcode for process in both] == [0, 0]
    finally:
        end(*both)
    shared = [{"rank": 0, 1: Path("x")}, 0, [2.0, 10.0], "`seed` is odd.", 2]
    for number in range(2):
        assert (tmp_path / f"answers{number}").read_text() == repr([True, number, 2, number == 0, *shared])


@pytest.mark.parametrize("asks", [lambda: agree(1), lambda: decide(int), wait, lambda: total(torch.zeros(1))])
def test_what_one_process_does_alone_asks_nobody(asks):
    """With several, its question would be taken for the next one, and all would wait for ever."""
    with pytest.raises(RuntimeError, match="one process alone"):
        decide(asks)
    assert agree(3) == 3, "it is over then"
