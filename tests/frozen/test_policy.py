"""The policy that is the model as loaded: fresh copies of it, the first of which is there already."""

import gc
import weakref

from mixalign.config.compose import compose_settings
from mixalign.frozen.cache import load_frozen
from mixalign.frozen.policy import reference_policy
from mixalign.jobs.job import prepare
from mixalign.models.fingerprint import weights_fingerprint
from mixalign.models.tiny import TinyLlama


def test_the_model_that_was_loaded_to_be_looked_at_is_the_first_copy(tiny, tmp_path, monkeypatch):
    built, build = [], TinyLlama.build

    def counted(self):
        built.append(build(self))
        return built[-1]

    monkeypatch.setattr(TinyLlama, "build", counted)
    settings = compose_settings(tiny("mixer=uniform", "reference.sft_steps=0", f"cache_dir={tmp_path}"))
    job, reference = reference_policy(prepare(settings))
    first, second, third = (reference.build() for _ in range(3))
    assert [first, second, third] == built
    assert [weights_fingerprint(model) for model in built] == [job.start] * 3


def test_it_makes_room_for_another_model(tiny, tmp_path, monkeypatch):
    """As for the model of a run that is evaluated: two of them may be more than there is memory for."""
    built, build = [], TinyLlama.build

    def noted(self):
        model = build(self)
        built.append(weakref.ref(model))
        return model

    monkeypatch.setattr(TinyLlama, "build", noted)
    settings = compose_settings(tiny("mixer=uniform", "reference.sft_steps=0", f"cache_dir={tmp_path}"))
    job, reference = reference_policy(prepare(settings))
    gc.collect()
    assert [model() is not None for model in built] == [True]
    build(settings.model).save_pretrained(tmp_path / "other")
    load_frozen(tmp_path / "other", reference)
    assert [model() for model in built] == [None]
    assert weights_fingerprint(reference.build()) == job.start
