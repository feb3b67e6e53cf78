"""The class of a folder's tokenizer from the cache: the same tokenizer, and the same errors."""

import json
import os

import pytest
import transformers

from mixalign.errors import MixalignError
from mixalign.models import tokenizer_class
from mixalign.models.load import Pretrained
from mixalign.models.tiny import TinyLlama, byte_tokenizer
from tests.training.test_memory import FAMILIES


def tokenizer_of(source, cache):
    cache.mkdir(exist_ok=True)
    tokenizer, keep = tokenizer_class.tokenizer_of(source, cache)
    keep()
    return tokenizer


@pytest.fixture(params=FAMILIES)
def folder(request, tmp_path):
    """Of a model of some family, with a tokenizer."""
    FAMILIES[request.param].save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def llama(tmp_path):
    FAMILIES["llama"].save_pretrained(tmp_path / "llama")
    byte_tokenizer().save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


@pytest.fixture
def chosen(monkeypatch):
    """How often transformers chooses a class."""
    times, choose = [], transformers.AutoTokenizer.from_pretrained

    def counted(*args, **options):
        times.append(args[0])
        return choose(*args, **options)

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", counted)
    return times


def test_the_tokenizer_is_the_same_and_nothing_is_chosen_again(folder, tmp_path, chosen):
    source = Pretrained(str(folder), chat_template="chatml")
    wanted, first, again = source.tokenizer(), *(tokenizer_of(source, tmp_path / "cache") for _ in range(2))
    assert len(chosen) == 2
    for found in (first, again):
        assert type(found) is type(wanted)
        assert found.init_kwargs.keys() == wanted.init_kwargs.keys()
        assert found.backend_tokenizer.to_str() == wanted.backend_tokenizer.to_str()
        assert found.special_tokens_map == wanted.special_tokens_map
        assert found.chat_template == wanted.chat_template
        assert found("a <s> b")["input_ids"] == wanted("a <s> b")["input_ids"]


def test_settings_of_another_content_are_asked_for_again(llama, tmp_path, chosen):
    source, file = Pretrained(str(llama)), llama / "tokenizer_config.json"
    before = file.stat()
    assert tokenizer_of(source, tmp_path / "cache").eos_token == "</s>"
    file.write_text(file.read_text().replace('"eos_token": "</s>"', '"eos_token": "<pa>"'))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert tokenizer_of(source, tmp_path / "cache").eos_token == "<pa>"
    assert len(chosen) == 2


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_folder_that_is_damaged_later_is_refused_as_always(llama, tmp_path, name):
    source = Pretrained(str(llama))
    tokenizer_of(source, tmp_path / "cache")
    (llama / name).write_text('{"vocab_size": ')
    with pytest.raises(MixalignError) as wanted:
        source.tokenizer()
    with pytest.raises(MixalignError) as found:
        tokenizer_of(source, tmp_path / "cache")
    assert str(found.value) == str(wanted.value)


def test_a_class_that_cannot_load_it_is_told_as_always(llama, tmp_path, monkeypatch, chosen):
    source = Pretrained(str(llama))
    monkeypatch.setattr(tokenizer_class, "recall", lambda cache, recipe: "GenerationConfig")
    assert tokenizer_of(source, tmp_path / "cache").eos_token == "</s>"
    assert len(chosen) == 1


@pytest.mark.parametrize("how", ["warning", "warning_once"])
def test_what_transformers_warns_of_is_heard_in_every_run(llama, tmp_path, monkeypatch, chosen, how):
    """Once a process: of a tokenizer.json by bytes whose class is said to be Llama's, in the second run of a sweep."""
    tokenizer = Pretrained.tokenizer

    def warns(self, *kind):
        getattr(transformers.utils.logging.get_logger("transformers.models"), how)("of another class")
        return tokenizer(self, *kind)

    monkeypatch.setattr(Pretrained, "tokenizer", warns)
    for _ in range(2):
        tokenizer_of(Pretrained(str(llama)), tmp_path / "cache")
    assert len(chosen) == 2
    assert not any((tmp_path / "cache").iterdir())


def test_only_folders_whose_code_is_that_of_transformers_are_kept(llama, tmp_path):
    assert tokenizer_class._recipe(Pretrained(str(llama)))
    assert tokenizer_class._recipe(Pretrained(str(llama), trust_remote_code=True)) is None
    assert tokenizer_class._recipe(Pretrained("somebody/model")) is None
    assert tokenizer_class._recipe(TinyLlama()) is None
    (llama / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/model"}))
    assert tokenizer_class._recipe(Pretrained(str(llama))) is None
