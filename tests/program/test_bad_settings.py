"""Settings that cannot be: one clear sentence, before anything is read, trained or written."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from mixalign.config.compose import compose_config, settings_of
from mixalign.errors import MixalignError
from mixalign.verbs.train import run


@pytest.fixture(scope="module")
def configured(tiny) -> Callable[[Sequence[str]], DictConfig]:
    """The tiny run with overrides. Groups are composed by Hydra once; values, read by its parser, are set on a copy."""
    composed = lru_cache(None)(lambda *groups: compose_config(tiny(*groups)))
    parser = OverridesParser.create()

    def go(overrides: Sequence[str]) -> DictConfig:
        groups = [text for text in overrides if text.split("=")[0] in ("mixer", "lora", "objective", "influence")]
        cfg = composed(*groups).copy()
        with open_dict(cfg):
            for text in overrides[len(groups) :]:
                given = parser.parse_override(text)
                OmegaConf.update(cfg, given.key_or_group, given.value(), force_add=True)
        return cfg

    return go


IDEAL, HINGE = "mixer=ideal", "objective.loss=hinge"
CASES: dict[str, tuple[str, str]] = {  # overrides, and the beginning of the message
    # learning rates
    "rate below 0": ("optimizer.lr=-1e-4", "`optimizer.lr` is -0.0001, but must be a number from 0 to 1"),
    "absurd rate": ("optimizer.lr=100", "`optimizer.lr` is 100, but must be a number from 0 to 1. AdamW moves"),
    "rate nan": ("optimizer.lr=nan", "`optimizer.lr` is nan, but must be"),
    "rate inf": ("optimizer.lr=inf", "`optimizer.lr` is inf, but must be"),
    "rate in words": ("optimizer.lr=fast", "`optimizer.lr` is 'fast', but must be"),
    "no rate": ("optimizer.lr=null", "`optimizer.lr` is None, but must be"),
    "specialists' rate": ("specialists.lr=nan", "`specialists.lr` is nan, but must be"),
    "reference's rate": ("reference.sft_lr=-1", "`reference.sft_lr` is -1, but must be"),
    # the optimizer
    "weight decay": ("optimizer.weight_decay=-1", "`optimizer.weight_decay` is -1, but must be a number from 0 on"),
    "betas": ("optimizer.betas=[0.9,1]", "`optimizer.betas[1]` is 1, but must be a number from 0 to 1, but not 1"),
    "one beta": ("optimizer.betas=[0.9]", "`optimizer.betas` is [0.9], but must be a list of 2 numbers"),
    "clipping": ("optimizer.max_grad_norm=nan", "`optimizer.max_grad_norm` is nan, but must be a number from 0 on"),
    "warm-up": ("optimizer.warmup_steps=-1", "`optimizer.warmup_steps` is -1, but must be a number from 0 on"),
    "eps": ("optimizer.eps=0", "`optimizer.eps` is 0, but must be a number above 0"),
    "floor": ("optimizer.schedule=linear optimizer.min_lr=-1", "`optimizer.min_lr` is -1, but must be a number from 0"),
    "floor without a fall": (
        "optimizer.min_lr=1e-5",
        "`optimizer.min_lr` is 1e-05, but `optimizer.schedule=constant` never falls. Set the schedule to",
    ),
    "floor above the peak": (
        "optimizer.schedule=cosine optimizer.min_lr=1e-2",
        "`optimizer.min_lr` is 0.01, which is above `optimizer.lr`, 0.0004: the learning rate would rise",
    ),
    "floor above the specialists' peak": (
        "optimizer.schedule=cosine optimizer.min_lr=1e-4 specialists.lr=1e-5",
        "`optimizer.min_lr` is 0.0001, which is above `specialists.lr`, 1e-05",
    ),
    "decay of another schedule": (
        "optimizer.schedule=cosine optimizer.decay_steps=3",
        "`optimizer.decay_steps` is 3, but only `optimizer.schedule=wsd` has a decay of its own, and it is cosine",
    ),
    "no decay": (
        "optimizer.schedule=wsd optimizer.decay_steps=0",
        "`optimizer.decay_steps` is 0, but must be a number",
    ),
    "DoRA merged": (
        "lora=default lora.use_dora=true merge.methods=[linear]",
        "`lora.use_dora` and `merge.methods` do not go together: the change of DoRA is not",
    ),
    "parts that are one word": (
        "lora=default lora.modules_to_save=lm_head",
        "`lora.modules_to_save` is 'lm_head', but must be a list: [lm_head]",
    ),
    "schedule": ("optimizer.schedule=cosin", "`optimizer.schedule` is 'cosin'. Did you mean `cosine`?"),
    "optimizer's key": (
        "optimizer.epsilon=1",
        "`epsilon` is no setting of mixalign.training.optimizer.Optimizer. Did you mean `eps`?",
    ),
    # lengths and sizes
    "steps": ("steps=0", "`steps` is 0, but must be a whole number from 1 on"),
    "half a step": ("steps=2.5", "`steps` is 2.5, but must be a whole number from 1 on"),
    "steps true": ("steps=true", "`steps` is True, but must be a whole number from 1 on"),
    "epochs": ("steps=null epochs=0", "`epochs` is 0, but must be a number above 0"),
    "epochs nan": ("steps=null epochs=nan", "`epochs` is nan, but must be a number above 0"),
    "epochs inf": ("steps=null epochs=inf", "`epochs` is inf, but must be a number above 0"),
    "neither": ("steps=null epochs=null", "`epochs` is None, but must be a number above 0: set `steps` or `epochs`"),
    "specialists' length": (
        "mixer=ama_s specialists.steps=null specialists.epochs=null",
        "`specialists.epochs` is None, but must be a number above 0: set `specialists.steps` or",
    ),
    "reference's length": ("reference.sft_steps=-1", "`reference.sft_steps` is -1, but must be a whole number from 0"),
    "batch": ("batch_size=-6", "`batch_size` is -6, but must be a whole number from 1 on"),
    "no batch": ("batch_size=null", "`batch_size` is None, but must be a whole number from 1 on"),
    "batch in words": ("batch_size=x", "`batch_size` is 'x', but must be a whole number from 1 on"),
    "specialists' batch": ("specialists.batch_size=0", "`specialists.batch_size` is 0, but must be"),
    "reference's batch": ("reference.sft_batch_size=0", "`reference.sft_batch_size` is 0, but must be"),
    "micro-batches": (
        "micro_batch_size=4",
        "`batch_size` is 6, which `micro_batch_size` 4 on 1 process(es) does not divide. Take a multiple of 4.",
    ),
    "no micro-batch": ("micro_batch_size=0", "`micro_batch_size` is 0, but must be a whole number from 1 on, or null"),
    "evaluation batch": ("eval_batch_size=0", "`eval_batch_size` is 0, but must be a whole number from 1 on"),
    "validation": ("val_every=-1", "`val_every` is -1, but must be a whole number from 1 on, or null"),
    "no validation": ("val_every=0", "`val_every` is 0, but must be a whole number from 1 on, or null"),
    "saving": ("save_every=x", "`save_every` is 'x', but must be a whole number from 1 on, or null"),
    "logging": ("log_every=0", "`log_every` is 0, but must be a whole number from 1 on"),
    "row length": ("data.max_length=1", "`data.max_length` is 1, but must be a whole number from 2 on"),
    "no row length": ("data.max_length=null", "`data.max_length` is None, but must be a whole number from 2 on"),
    "row length below the prompts": (
        "data.max_length=5",
        "Task `helpful` (train): none of its 40 rows is left. 40 have a prompt of max_length=5 tokens or more",
    ),
    "validation share": ("data.validation_fraction=2", "`data.validation_fraction` is 2, but must be a number from 0"),
    "seed": ("seed=-1", "`seed` is -1, but must be a whole number from 0 to 4294967295"),
    "large seed": ("seed=4294967296", "`seed` is 4294967296, but must be"),
    "seed in words": ("seed=one", "`seed` is 'one', but must be"),
    "seed of the data": ("data.seed=x", "`data.seed` is 'x', but must be a whole number from 0 to"),
    "seed of the model": ("model.seed=x", "`model.seed` is 'x', but must be a whole number from 0 on"),
    "seed of specialists": ("specialists.seed=-1", "`specialists.seed` is -1, but must be"),
    # words
    "export": ("export=worst", "`export` is 'worst'. Known: averaged, best, best_gap, last."),
    "composition": ("composition=mixed", "`composition` is 'mixed'. Known: multinomial, stratified."),
    "policy": ("specialists.train=maybe", "`specialists.train` is 'maybe'. Known: always, auto, never."),
    "mode": ("reference.mode=x", "`reference.mode` is 'x'. Known: adapter_off, cached, frozen_copy."),
    "on_nan": ("on_nan=maybe", "`on_nan` is 'maybe'. Known: quarantine, raise, skip."),
    "progress": ("progress=maybe", "`progress` is 'maybe', but must be true or false."),
    "debug": ("debug=1", "`debug` is 1, but must be true or false."),
    "no checkpoint": ("resume=gone.ckpt", "`resume=gone.ckpt` is no checkpoint. Leave it out: a run goes on by itself"),
    "merge": ("merge.methods=linear", "`merge.methods` is 'linear', but must be a list: [linear]"),
    "no list of merges": ("merge.methods=null", "`merge.methods` is None, but must be a list."),
    "merging method": ("merge.methods=[tise]", "`merge.method` is 'tise'. Did you mean `ties`?"),
    "merging weights": ("merge.methods=[linear] merge.weights=[1]", "There are 1 weights for 3 models"),
    "weights that sum to 0": ("merge.methods=[linear] merge.weights=[0,0,0]", "The weights of the merge are 0, 0,"),
    "merging scale": ("merge.scale=x", "`merge.scale` is 'x', but must be a number."),
    "merging trials": ("merge.trials=-1", "`merge.trials` is -1, but must be a whole number from 0 on"),
    "probe": ("probe.rows=0", "`probe.rows` is 0, but must be a whole number from 1 on"),
    "probed weights": ("probe.weights='['", "`probe.weights=[` is no regular expression"),
    "folder of tasks": (
        "data.root=3",
        "`data.root` is 3, but must be a text that is not empty, or null. Put",
    ),
    # mixers
    "negative m": (f"{IDEAL} mixer.m=-0.1", "`mixer.m` is -0.1, but must be a number from 0 to 1"),
    "m nan": (f"{IDEAL} mixer.m=nan", "`mixer.m` is nan, but must be a number from 0 to 1"),
    "half a round": (f"{IDEAL} mixer.rounds=1.5", "`mixer.rounds` is 1.5, but must be a whole number from 1 on"),
    "no curvature": (f"{IDEAL} {HINGE}", "`objective.loss=hinge` is made of straight lines, so it has no curvature"),
    "damping": (f"{IDEAL} influence.damping=0", "`influence.damping` is 0, but must be a number above 0"),
    "layers": (f"{IDEAL} influence.layers='['", "`influence.layers=[` is no regular expression"),
    "influence's key": (f"{IDEAL} influence.dampng=1", "`dampng` is no setting of mixalign.influence.settings."),
    "mode in rounds": (f"{IDEAL} reference.mode=frozen_copy", "`reference.mode=frozen_copy`, but `mixer=ideal` reads"),
    "negative eta": ("mixer.eta=-0.1", "`mixer.eta` is -0.1, but must be a number from 0 on"),
    "eta nan": ("mixer.eta=nan", "`mixer.eta` is nan, but must be a number from 0 on"),
    "eta in words": ("mixer.eta=much", "`mixer.eta` is 'much', but must be a number from 0 on"),
    "eta true": ("mixer.eta=true", "`mixer.eta` is True, but must be a number from 0 on"),
    "c above 1": ("mixer.c=1.5", "`mixer.c` is 1.5, but must be a number from 0 to 1"),
    "mixer's key": ("mixer.etta=1", "`etta` is no setting of mixalign.mixers.ama_s.AMAS. Did you mean `eta`?"),
    "wrapper's key": ("mixer.wrap.flor=0.1", "`mixer.wrap.flor` is no setting. Did you mean `floor`?"),
    "weights of too few": ("mixer.wrap.prior=[1,2]", "`mixer.wrap.prior` has 2 weights, but there are 3 tasks"),
    "weights of nobody": ("mixer.wrap.prior={math:1}", "`mixer.wrap.prior` names `math`, which is no task"),
    "weights nan": ("mixer.wrap.prior=[nan,1,1]", "`mixer.wrap.prior` is [nan, 1, 1], but must be"),
    "weights below 0": ("mixer.wrap.prior=[1,-1,1]", "`mixer.wrap.prior` is [1, -1, 1], but must be"),
    "weights of 0": ("mixer.wrap.prior=[0,0,0]", "`mixer.wrap.prior` is [0, 0, 0], but must be"),
    "graph": ("mixer=skill_it mixer.graph=[[1,2],[3,4]]", "`mixer.graph` has 2 rows, but there are 3 tasks"),
    "small batch": ("mixer=ama_r batch_size=2", "`mixer=ama_r` wants every task in every batch, but `batch_size` is 2"),
    # objectives
    "beta 0": ("objective.beta=0", "`objective.beta` is 0, but must be a number above 0"),
    "beta nan": ("objective.beta=nan", "`objective.beta` is nan, but must be a number above 0"),
    "beta inf": ("objective.beta=inf", "`objective.beta` is inf, but must be a number above 0"),
    "smoothing": (
        "objective.label_smoothing=0.5",
        "`objective.label_smoothing` is 0.5, but must be a number from 0 to 0.5, but",
    ),
    "loss": ("objective.loss=sigmoyd", "`objective.loss` is 'sigmoyd'. Did you mean `sigmoid`?"),
    "weight of KTO": ("objective=kto objective.desirable_weight=-1", "`objective.desirable_weight` is -1, but must be"),
    "beta of a task": (
        "data.tasks.helpful.objective.beta=-1",
        "`objective.beta` is -1.0, but must be a number above 0",
    ),
    "setting of a task": ("data.tasks.helpful.objective.bta=1", "`data.tasks.<name>.objective.bta` is no setting of"),
    # the model
    "heads": ("model.num_heads=3", "`model.hidden_size` is 16, but must be a multiple of twice `model.num_heads`"),
    "no layer": ("model.num_layers=0", "`model.num_layers` is 0, but must be a whole number from 1 on"),
    "positions": (
        "model.max_positions=4",
        "Task `helpful` has a row of 14 tokens, but the model has only 4 positions. Lower `data.max_length` to 4.",
    ),
    "tokenizer": ("model.tokenizer_file=gone.json", "`model.tokenizer_file=gone.json` cannot be read"),
    "adapters that are not there": ("reference.mode=adapter_off", "`reference.mode=adapter_off` needs adapters: set"),
    "rank": ("lora=default lora.r=0", "`lora.r` is 0, but must be a whole number from 1 on"),
    "alpha": ("lora=default lora.lora_alpha=x", "`lora.lora_alpha` is 'x', but must be a number above 0"),
    "dropout": (
        "lora=default lora.lora_dropout=2",
        "`lora.lora_dropout` is 2, but must be a number from 0 to 1, but not 1",
    ),
    "dropout of a comparison": (
        "lora=default lora.lora_dropout=.5",
        "`lora.lora_dropout` is 0.5, but `objective=dpo` compares scores",
    ),
    "targets": (
        "lora=default lora.target_modules=[nothing]",
        "`lora.target_modules` is ['nothing'], which no part of the model is called. Take all-linear, or some of",
    ),
    # the machine
    "precision": ("trainer.precision=bf17", "`trainer.precision` is 'bf17'. Did you mean `bf16`?"),
    "accelerator": ("trainer.accelerator=tpuu", "Lightning refuses the settings of `trainer`"),
    "devices": ("trainer.devices=0", "Lightning refuses the settings of `trainer`"),
    "strategy": ("trainer.strategy=foo", "Lightning refuses the settings of `trainer`"),
    "trainer's key": ("trainer.foo=1", "`trainer.foo` is no setting. Known: "),
    "trainer's steps": ("trainer.max_steps=4", "`trainer.max_steps` cannot be set, because mixalign sets it"),
    "accumulation": ("trainer.accumulate_grad_batches=2", "`trainer.accumulate_grad_batches` cannot be set"),
    "layout": ("engine.layout=x", "`engine.layout` is 'x'. Known: auto, packed, padded."),
    "tokens": ("engine.max_tokens=3", "`engine.max_tokens` is 3, but the longest row has"),
    "no tokens": ("engine.max_tokens=-1", "`engine.max_tokens` is -1, but must be a whole number from 1 on, or null"),
    "threads": ("engine.threads=-1", "`engine.threads` is -1, but must be a whole number from 1 on, or null"),
    "checkpointing": ("engine.gradient_checkpointing=x", "`engine.gradient_checkpointing` is 'x', but must be true or"),
    "engine's key": ("engine.layuot=x", "`layuot` is no setting of mixalign.training.engine.Engine. Did you"),
    # tasks
    "generator": ("data.tasks.x.generator=helpfull", "There is no generator `helpfull`. Did you mean `helpful`?"),
    "no rows": ("data.tasks.helpful.rows=0", "`data.tasks.helpful.rows` is 0, but must be a whole number"),
    "task's key": ("data.tasks.helpful.row=3", "`data.tasks.helpful.row` is not a setting of a task. Did you mean"),
    "no task": ("data.tasks.x=3", "`data.tasks.x` is 3, but must be a mapping such as"),
    "nothing to read": ("data.tasks.x={}", "task `x` has neither a path nor a generator"),
    "two sources": ("data.tasks.helpful.path=a.jsonl", "`data.tasks.helpful` has both a path and a generator"),
    "target of a number": (f"{IDEAL} data.target=3", "`data.target` is 3, but must be a list of tasks, or a mapping"),
    "reference": (f"{IDEAL} data.target=[nope]", "`data.target` names `nope`, which is no task"),
    # what may be built
    "foreign class": ("model._target_=os.system", "`_target_: os.system` may not be built: only mixalign."),
    "no model": ("model._target_=mixalign.models.gone.X", "`_target_: mixalign.models.gone.X` cannot be imported"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_before_anything_is_written(configured, tmp_path, case):
    overrides, said = CASES[case]
    cfg = configured([*overrides.split(), f"cache_dir={tmp_path / 'cache'}"])
    with pytest.raises(MixalignError) as caught:
        run(settings_of(cfg), tmp_path / "run")
    message = str(caught.value)
    assert message.startswith(said)
    assert "\n" not in message
    assert not (tmp_path / "cache").exists()
    assert [*(tmp_path / "run").rglob("*")] == []


def test_the_settings_themselves_are_good(configured):
    """Else every case would be refused for another reason."""
    for groups in ([], [IDEAL], ["lora=default"], ["objective=kto"], ["mixer=skill_it"], ["mixer=ama_r"]):
        settings_of(configured(groups))


@pytest.mark.parametrize("name", ["../x", "a/b", ".x", "a\nb"])
def test_a_name_that_would_lead_elsewhere(configured, tmp_path, name):
    cfg = configured([f"cache_dir={tmp_path / 'cache'}"])
    with open_dict(cfg):
        cfg.data.tasks[name] = {"generator": "helpful"}
    with pytest.raises(MixalignError) as caught:
        run(settings_of(cfg), tmp_path / "run")
    assert str(caught.value).startswith(f"A task is called {name!r}, but names become files: no slash, and no dot in")


@pytest.mark.parametrize("key", ["run_dir", "cache_dir", "specialists.dir"])
@pytest.mark.parametrize("below", ["", "a/b"])
def test_a_place_that_is_a_file(configured, tmp_path, key, below):
    (tmp_path / "file").write_text("mine")
    place = tmp_path / "file" / below
    cfg = configured([f"cache_dir={tmp_path / 'cache'}", *([] if key == "run_dir" else [f"{key}={place}"])])
    with pytest.raises(MixalignError) as caught:
        run(settings_of(cfg), place if key == "run_dir" else tmp_path / "run")
    assert str(caught.value) == f"`{key}` is {place}, but {tmp_path / 'file'} is no folder. Name another place."
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "cache").exists()


def test_a_value_that_must_be_given(configured, tmp_path):
    with pytest.raises(MixalignError, match=r"^`model.path` has no value, and must have one. Set it: model.path=...$"):
        run(settings_of(configured(["model.path='???'"])), tmp_path / "run")


def test_a_run_without_a_cache(configured, tmp_path):
    with pytest.raises(MixalignError, match=r"^`cache_dir` is None, but must be a text"):
        run(settings_of(configured(["cache_dir=null"])), tmp_path / "run")


def test_specialists_that_are_not_there(configured, tmp_path):
    settings = [f"specialists.dir={tmp_path / 'none'}", "specialists.train=never", f"cache_dir={tmp_path / 'cache'}"]
    with pytest.raises(MixalignError, match=r"`mixer=ama_s` needs specialists, but there is no .*/none/helpful, and"):
        run(settings_of(configured(["mixer=ama_s", *settings])), tmp_path / "run")
    assert not (tmp_path / "cache").exists()


def test_models_of_the_user_are_not_replaced_by_specialists(configured, tmp_path):
    own = tmp_path / "models" / "helpful" / "model.safetensors"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"weeks of work")
    settings = [f"specialists.dir={tmp_path / 'models'}", f"cache_dir={tmp_path / 'cache'}"]
    with pytest.raises(MixalignError, match=r"/models/helpful is there already, and is no model that mixalign trained"):
        run(settings_of(configured(["mixer=ama_s", *settings])), tmp_path / "run")
    assert [path for path in (tmp_path / "models").rglob("*") if path.is_file()] == [own]
    assert own.read_bytes() == b"weeks of work"


def test_curves_that_nobody_can_receive(configured, tmp_path, monkeypatch):
    """W&B itself says so when the training begins, which may be hours later."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    cfg = configured([f"cache_dir={tmp_path / 'cache'}"])
    with open_dict(cfg):
        cfg.logger.wandb = compose_config(["logger=wandb"]).logger.wandb
    with pytest.raises(MixalignError, match=r"`logger=wandb` needs an account .* Set WANDB_API_KEY, or `logger.wandb"):
        run(settings_of(cfg), tmp_path / "run")
    assert not (tmp_path / "cache").exists()


def test_a_secret_in_the_configuration(configured, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
    monkeypatch.setenv("OTHER_TOKEN", "tiny")  # too short: a word that stands in many configurations
    with pytest.raises(MixalignError, match=r"`name` holds the secret of the environment variable HF_TOKEN") as caught:
        run(settings_of(configured(["name='${oc.env:HF_TOKEN}'"])), tmp_path / "run")
    assert "hf_abc" not in str(caught.value)
    assert [*Path(tmp_path / "run").rglob("*")] == []
