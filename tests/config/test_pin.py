"""The settings of specialists of another run, which a version may have written that had fewer of them."""

import pytest
from omegaconf import OmegaConf

from mixalign.config.compose import compose_config
from mixalign.config.pin import pinned


@pytest.mark.parametrize(("key", "own", "theirs"), [("patience", 2, None), ("folds", 3, 1), ("export", "best", "last")])
def test_what_an_older_run_did_not_have_is_as_it_was_then(tmp_path, key, own, theirs):
    config = OmegaConf.to_container(compose_config(["specialists.steps=30"]), resolve=True)
    del config["specialists"][key]
    OmegaConf.save(OmegaConf.create(config), tmp_path / "config.yaml")
    (tmp_path / "specialists.json").write_text("{}")
    config["specialists"] |= {"of": str(tmp_path), key: own}
    assert pinned(config)["specialists"][key] == theirs
