"""Sizes of models that are not loaded: the same from the cache, and of a model that has changed others."""

import json
import os

import pytest
from transformers import AutoModelForCausalLM

from mixalign.models import shapes
from mixalign.models.load import LoRA, Pretrained
from mixalign.models.shapes import Shapes, shapes_of
from mixalign.models.tiny import TinyLlama
from mixalign.training.engine import Engine
from mixalign.training.memory import footprint
from tests.training.test_memory import FAMILIES

LORAS = (None, LoRA(), LoRA(r=4, lora_dropout=0.1, modules_to_save=["lm_head"]))
TINY = TinyLlama(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32)


@pytest.fixture
def unmade(monkeypatch):
    """From here on no model is made."""

    def forbid():
        monkeypatch.setattr(shapes, "_made", lambda source: pytest.fail(f"{source} was made"))

    return forbid


@pytest.fixture(autouse=True)
def _cache(tmp_path):
    (tmp_path / "cache").mkdir()


@pytest.mark.parametrize("settings", [{}, {"dtype": "bfloat16"}, {"attn_implementation": "eager"}], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_cache_gives_what_the_model_itself_has(tmp_path, unmade, family, settings):
    FAMILIES[family].save_pretrained(tmp_path / "model")
    source = Pretrained(str(tmp_path / "model"), **settings)
    model = AutoModelForCausalLM.from_config(
        FAMILIES[family], dtype=source.dtype, attn_implementation=source.attn_implementation
    )
    made = shapes_of(source, tmp_path / "cache")
    unmade()
    kept = shapes_of(source, tmp_path / "cache")
    assert kept == made == Shapes.of(model)
    for lora in LORAS:
        assert footprint(kept, lora, Engine(), "cpu", 90) == footprint(Shapes.of(model), lora, Engine(), "cpu", 90)


def test_settings_and_the_file_decide_and_not_its_time(tmp_path):
    FAMILIES["llama"].save_pretrained(tmp_path / "model")
    file, source = tmp_path / "model" / "config.json", Pretrained(str(tmp_path / "model"))
    before, found = file.stat(), shapes_of(source, tmp_path / "cache")
    file.write_text(file.read_text().replace('"num_hidden_layers": 3', '"num_hidden_layers": 5'))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert (found.depth, shapes_of(source, tmp_path / "cache").depth) == (3, 5)
    half = Pretrained(str(tmp_path / "model"), dtype="float16")
    assert shapes_of(half, tmp_path / "cache").size * 2 == shapes_of(source, tmp_path / "cache").size
    assert len([*(tmp_path / "cache" / "known").iterdir()]) == 3


def test_nothing_is_kept_where_there_is_no_cache(tmp_path):
    """As a plan makes none."""
    shapes_of(TINY, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_model_of_random_weights_is_made_once(tmp_path, unmade):
    made = shapes_of(TINY, tmp_path)
    assert made == Shapes.of(TINY.build())
    unmade()
    assert shapes_of(TINY, tmp_path) == made


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"recipe": 1}'])
def test_a_damaged_entry_is_made_again(tmp_path, damage):
    made = shapes_of(TINY, tmp_path)
    (entry,) = (tmp_path / "known").iterdir()
    entry.write_text(damage)
    assert shapes_of(TINY, tmp_path) == made
    assert json.loads(entry.read_text())["found"]["depth"] == 1


@pytest.mark.parametrize(
    "further", [{"auto_map": {"AutoConfig": "x.Y"}}, {"model_type": ""}, {"configuration_files": []}]
)
def test_what_other_files_decide_is_not_kept(tmp_path, further):
    FAMILIES["llama"].save_pretrained(tmp_path)
    source = Pretrained(str(tmp_path))
    assert shapes._recipe(source)
    assert shapes._recipe(Pretrained(str(tmp_path), trust_remote_code=True)) is None
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | further))
    assert shapes._recipe(source) is None
