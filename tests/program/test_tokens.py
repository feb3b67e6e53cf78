"""Runs with cached tokens: the same rows, the same training, and no second tokenisation."""

import json

import numpy as np
import pytest

from mixalign.config.compose import compose_settings
from mixalign.data.tokens import cache as token_cache
from mixalign.jobs.job import prepare


@pytest.fixture(autouse=True)
def every_table(monkeypatch):
    """Caches tables of any size."""
    monkeypatch.setattr(token_cache, "SMALL", 1)


def test_every_task_and_split_is_tokenised_once(tiny, tmp_path, monkeypatch):
    def refuse(*rows, **settings):
        raise AssertionError("tokenised again")

    overrides = tiny(f"cache_dir={tmp_path}")
    first = prepare(compose_settings(overrides))
    assert len(list((tmp_path / "tokens").iterdir())) == 3 * 3
    monkeypatch.setattr(token_cache, "tokenise", refuse)
    second = prepare(compose_settings(overrides))
    assert second.counts == first.counts
    for (_, _, one), (_, _, other) in zip(first.all_datasets, second.all_datasets, strict=True):
        assert one.task == other.task
        np.testing.assert_array_equal(one.row_id_N, other.row_id_N)
    with pytest.raises(AssertionError, match="tokenised again"):
        prepare(compose_settings([*overrides, "data.max_length=31"]))


def test_the_cache_can_be_switched_off(tiny, tmp_path):
    prepare(compose_settings(tiny(f"cache_dir={tmp_path}", "data.cache_tokens=false")))
    assert not (tmp_path / "tokens").exists()


@pytest.mark.long
def test_mapped_tables_train_like_those_in_memory(train, finished, tmp_path):
    """From an empty cache: reference, specialists, scores and the run itself read arrays that nobody can write to."""
    run = train("mixer=ama_s", f"cache_dir={tmp_path / 'cache'}")
    assert (tmp_path / "cache" / "tokens").is_dir()
    found, wanted = (json.loads((folder / "eval.json").read_text()) for folder in (run, finished))
    assert found["tasks"] == wanted["tasks"]
