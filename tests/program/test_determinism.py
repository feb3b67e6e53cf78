"""The same seed on the same machine gives the same bits: weights, mixtures, metrics and results, for every mixer."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mixalign.config.compose import CONF
from mixalign.errors import MixalignError
from mixalign.training.engine import DETERMINISTIC, deterministic

MIXERS = sorted(path.stem for path in (CONF / "mixer").glob("*.yaml"))
RUN = ("mix.jsonl", "mixture.json", "metrics.csv", "eval.json")
ROUND = (*RUN, "round.json", "benefit.json")
STRICT = "trainer.deterministic=true"


def contents(run: Path) -> dict[str, bytes]:
    """All that a run measured and trained, also in its rounds."""
    files = [run / name for name in RUN] + [file for name in ROUND for file in run.glob(f"rounds/*/{name}")]
    return {str(file.relative_to(run)): file.read_bytes() for file in [*files, *run.glob("**/*.safetensors")]}


def assert_the_same(one: Path, two: Path) -> None:
    one, two = contents(one), contents(two)
    assert one.keys() == two.keys()
    assert [name for name, content in one.items() if content != two[name]] == []


@pytest.mark.long
@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_gives_the_same_bits_again(of_mixer, mixer):
    """Also where torch refuses what may differ: on a CPU the same operations are taken."""
    assert_the_same(of_mixer(mixer, "objective=dpo"), of_mixer(mixer, "objective=dpo", STRICT))
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.long
@pytest.mark.parametrize(
    "overrides",
    [
        ("engine.layout=packed",),
        ("objective=sft", "engine.layout=packed", "lora=default", "lora.r=2", "micro_batch_size=2"),
        ("objective=kto",),
    ],
    ids=" ".join,
)
def test_every_path_gives_the_same_bits_again(train, tmp_path, overrides):
    """With caches of their own: references, specialists and scores are made under the same rule."""
    one, two = (train(*overrides, STRICT, f"cache_dir={tmp_path / run}-cache", run=run) for run in ("one", "two"))
    assert_the_same(one, two)
    tables = sorted(tmp_path.glob("one-cache/scores/*"))
    assert len(tables) == len(list(tmp_path.glob("two-cache/scores/*"))) > 0
    for table in tables:  # not its bytes: the library writes the two entries of its header in any order
        again = load_file(tmp_path / "two-cache" / "scores" / table.name)
        assert all(numbers.equal(again[name]) for name, numbers in load_file(table).items())


def state() -> tuple:
    torch_state = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return *torch_state, torch.backends.cudnn.benchmark, [os.environ.get(name) for name in DETERMINISTIC]


@pytest.mark.parametrize(("mode", "within"), [(True, (True, False)), ("warn", (True, True)), (False, None)])
def test_the_switch_is_put_back(mode, within):
    before = state()
    with deterministic(mode):
        assert state()[:2] == (within or before[:2])
        assert all(state()[3]) == (mode is not False)
    assert state() == before
    with pytest.raises(KeyError), deterministic(mode):
        raise KeyError
    assert state() == before


def test_what_torch_refuses_is_named_with_the_switch():
    """`put_` without accumulation: which of two values wins at one place is not said."""
    twice = torch.tensor([0, 0])
    said = r"put_ .*`trainer.deterministic=true` wants one. Set it to warn or false"
    with pytest.raises(MixalignError, match=said), deterministic(True):
        torch.zeros(2).put_(twice, torch.ones(2))
    with deterministic("warn"), pytest.warns(UserWarning, match="put_"):
        torch.zeros(2).put_(twice, torch.ones(2))


def test_another_word_is_refused(tiny, refuse):
    assert "`trainer.deterministic` is 'yes'. Known: false, true, warn." in refuse(tiny("trainer.deterministic=yes"))
