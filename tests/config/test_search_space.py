"""What a search may choose."""

import pytest

from mixalign.config.search_space import Choice, Interval, space_of
from mixalign.errors import MixalignError

ETA = "mixer.eta=tag(log,interval(0.01,1))"


def test_groups_come_first_and_all_else_is_fixed():
    space = space_of(["steps=30", ETA, "mixer=uniform,ama_s", "seed=range(1,4)", "probe.rows=int(interval(2,8))"])
    assert space.fixed == ("steps=30",)
    assert space.dimensions == (
        Choice("mixer", ("uniform", "ama_s")),
        Interval("mixer.eta", 0.01, 1, log=True),
        Choice("seed", ("1", "2", "3")),
        Interval("probe.rows", 2, 8, whole=True),
    )


@pytest.mark.parametrize(("mixer", "wanted"), [("uniform", ["seed=1"]), ("ama_s", ["mixer.eta=0.5", "seed=1"])])
def test_a_key_that_the_chosen_mixer_does_not_have_is_left_out(mixer, wanted):
    space = space_of(["steps=30", "mixer=uniform,ama_s", ETA, "seed=1,2"])
    values, asked = {"mixer": mixer, "mixer.eta": "0.5", "seed": "1"}, []

    def choose(one):
        asked.append(one.key)
        return values[one.key]

    assert space.overrides(choose, {}) == ["steps=30", f"mixer={mixer}", *wanted]
    assert asked == ["mixer", *(text.partition("=")[0] for text in wanted)]


def test_values_that_hydra_wants_in_quotes_keep_them():
    space = space_of(["data.root='a b','c,d'"])
    assert space.overrides(lambda one: one.values[1], {}) == ["data.root='c,d'"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["steps=30"], "Nothing differs between trials"),
        (["mixer=uniform,amas"], "There is no `mixer=amas`"),
        (["mixer.etta=1,2"], "Did you mean `eta`?"),
        (["mixer=uniform,proportional", ETA], "`mixer.eta` is no setting"),
        (["mixer=glob(ama_*)"], "cannot be searched"),
        (["optimizer.lr=interval(1,0.1)"], "the first end must be below the second one"),
        (["optimizer.lr=tag(log,interval(0,0.1))"], "and above 0"),
    ],
)
def test_what_cannot_be_searched_is_refused(arguments, says):
    with pytest.raises(MixalignError) as error:
        space_of(arguments)
    assert says in str(error.value)
