"""From configuration to objects: what may be built, and what is said when it cannot."""

import pytest

from mixalign.config.build import build
from mixalign.errors import MixalignError
from mixalign.mixers.ama_s import AMAS

AMA_S = {"_target_": "mixalign.mixers.ama_s.AMAS", "eta": 0.2}


def test_a_node_becomes_an_object():
    assert build(AMA_S) == AMAS(eta=0.2)
    assert build(AMA_S, c=0.5) == AMAS(eta=0.2, c=0.5)


def test_keys_for_the_configuration_only_are_dropped():
    assert build({**AMA_S, "name": "ama_s"}, "name") == AMAS(eta=0.2)


@pytest.mark.parametrize("node", [None, {}])
def test_an_empty_node_is_nothing(node):
    assert build(node) is None


@pytest.mark.parametrize("target", ["os.system", "subprocess.run", "mixalignment.Evil", "builtins.eval", 3])
def test_what_is_not_ours_may_not_be_built(target):
    with pytest.raises(MixalignError, match=r"may not be built.*MIXALIGN_TARGETS.*cannot allow itself"):
        build({"_target_": target})


@pytest.mark.parametrize("hidden", [{"_target_": "os.system", "command": "x"}, [{"_target_": "os.system"}]])
def test_nor_further_in(hidden):
    with pytest.raises(MixalignError, match=r"`_target_: os.system` may not be built"):
        build({**AMA_S, "eta": hidden})


@pytest.mark.parametrize("target", ["mixalign.files.write_text", "torch.load", "torch.hub.load"])
def test_a_function_of_a_known_package_may_not_be_called(target):
    with pytest.raises(MixalignError, match=f"`_target_: {target}` may not be built: it is a function, and no class"):
        build({"_target_": target})


@pytest.mark.parametrize("word", ["_partial_", "_args_", "_recursive_"])
def test_further_keywords_of_hydra_are_refused(word):
    with pytest.raises(MixalignError, match=f"`{word}` may not stand beside `_target_"):
        build({**AMA_S, word: True})


def test_a_target_that_is_not_there():
    with pytest.raises(MixalignError, match=r"`_target_: mixalign.mixers.gone.Gone` cannot be imported"):
        build({"_target_": "mixalign.mixers.gone.Gone"})
    with pytest.raises(MixalignError, match=r"\{'eta': 1\} has no `_target_`"):
        build({"eta": 1})


def test_the_user_may_allow_a_class(monkeypatch):
    monkeypatch.setenv("MIXALIGN_TARGETS", "some.Other, fractions.Fraction")
    assert str(build({"_target_": "fractions.Fraction", "numerator": 1, "denominator": 2})) == "1/2"
    with pytest.raises(MixalignError, match="may not be built"):
        build({"_target_": "fractions.Decimal"})


def test_the_user_may_allow_a_module(monkeypatch):
    monkeypatch.setenv("MIXALIGN_TARGETS", "fractions.*")
    assert str(build({"_target_": "fractions.Fraction", "numerator": 1, "denominator": 2})) == "1/2"
    with pytest.raises(MixalignError, match="may not be built"):
        build({"_target_": "fractionsx.Fraction"})


def test_an_unknown_argument_is_named_and_the_nearest_one():
    with pytest.raises(MixalignError, match=r"`etta` is no setting of mixalign\.mixers\.ama_s\.AMAS.*mean `eta`"):
        build({**AMA_S, "etta": 1})


def test_an_error_of_ours_comes_through_unchanged():
    with pytest.raises(MixalignError, match=r"^`mixer.eta` is -1, but must be a number from 0 on\.$"):
        build({**AMA_S, "eta": -1})
