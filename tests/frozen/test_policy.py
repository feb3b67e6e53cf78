"""The policy that is the model as loaded: fresh copies of it, the first of which is there already."""

from mixalign.config.compose import compose_settings
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
