"""Models, tokenizers and templates that do not work: refused in one sentence, before anything is trained."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from safetensors.torch import load_file, save_file

from mixalign.config.compose import compose_config, settings_of
from mixalign.errors import MixalignError
from mixalign.models.load import LoRA, Pretrained, add_lora
from mixalign.models.tiny import TinyLlama
from mixalign.verbs.train import run

TINY = TinyLlama(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32)
EMBEDDING, EQUALS = "model.embed_tokens.weight", 31  # and the token of the sign `=`
WEIGHT = "model.layers.0.mlp.up_proj.weight"
PLAIN = [{"prompt": f"q{n}=", "chosen": f"a{n}", "rejected": f"b{n}"} for n in range(20)]
CHAT = [{"prompt": [{"role": "user", "content": f"x{n}"}]} for n in range(20)]
CHAT = [row | {k: [{"role": "assistant", "content": k}] for k in ("chosen", "rejected")} for row in CHAT]


class Evil:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def edit_json(name: str, **changes) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        old = json.loads((folder / name).read_text())
        new = {key: value for key, value in (old | changes).items() if value is not None}
        (folder / name).write_text(json.dumps(new))

    return edit


def edit_weights(change: Callable[[dict], dict]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, {"format": "pt"})

    return edit


def template(text: str) -> Callable[[Path], None]:
    return lambda folder: [*map(lambda path: path.write_text(text), folder.glob("*.jinja"))]


def code_of_its_own(folder: Path) -> None:
    edit_json("config.json", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}, model_type="own")(
        folder
    )
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(folder / 'executed')!r})\n")


def tokenizer_of_its_own(folder: Path) -> None:
    own = {"auto_map": {"AutoTokenizer": ["own.T", None]}, "tokenizer_class": "T"}
    edit_json("tokenizer_config.json", **own)(folder)
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(folder / 'executed')!r})\n")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": Evil(folder / "executed")}, folder / "pytorch_model.bin")


def an_adapter(folder: Path) -> None:
    add_lora(TINY.build(), LoRA(r=2)).save_pretrained(folder)


def small(weights: dict) -> dict:
    """With embeddings of the first 200 of 264 tokens."""
    return {name: w[:200].clone() if name in ("lm_head.weight", EMBEDDING) else w for name, w in weights.items()}


def fewer_embeddings(folder: Path) -> None:
    edit_json("config.json", vocab_size=200)(folder)
    edit_weights(small)(folder)


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [path.unlink() for name in names for path in folder.glob(name)]


OWN_CODE = (
    "it brings code of its own, which is not run, as `model.trust_remote_code` is false: read that code and set it"
)
CASES: dict[str, tuple[Callable[[Path], object], list[dict], str]] = {  # what is done to a good folder, rows, message
    "no weights": (remove("*.safetensors"), PLAIN, "cannot be loaded as AutoModelForCausalLM: Error no file named"),
    "torn weights": (
        lambda folder: os.truncate(folder / "model.safetensors", 9000),
        PLAIN,
        "cannot be loaded as AutoModelForCausalLM: Error while deserializing header",
    ),
    "weights of something else": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"hello, this is no model"),
        PLAIN,
        "cannot be loaded as AutoModelForCausalLM: Error while deserializing header",
    ),
    "a weight is missing": (
        edit_weights(lambda w: {name: value for name, value in w.items() if name != WEIGHT}),
        PLAIN,
        f"lacks 1 of the weights of LlamaForCausalLM, such as `{WEIGHT}`: they would be random",
    ),
    "a weight of another shape": (
        edit_weights(lambda w: w | {WEIGHT: torch.zeros(16, 16)}),
        PLAIN,
        "cannot be loaded as AutoModelForCausalLM: its weights do not have the shapes that its config.json tells.",
    ),
    "weights that are not finite": (
        edit_weights(lambda w: w | {EMBEDDING: w[EMBEDDING].index_fill(0, torch.tensor(EQUALS), torch.nan)}),
        PLAIN,
        "Column `reference_logp` of task `task` has 36 entries that are not finite. The model that was scored has "
        "diverged, or its weights are damaged",
    ),
    "pickled weights": (pickled, PLAIN, "its weights are pickled, with code or objects in them, which are not loaded."),
    "torn config.json": (lambda folder: os.truncate(folder / "config.json", 50), PLAIN, "is not a valid JSON file"),
    "no config.json": (remove("config.json"), PLAIN, "cannot be loaded as AutoModelForCausalLM: Unrecognized model"),
    "unknown architecture": (edit_json("config.json", model_type="nosuch"), PLAIN, "has model type `nosuch`"),
    "another architecture": (
        edit_json("config.json", model_type="gpt2"),
        PLAIN,
        "of the weights of GPT2LMHeadModel, such",
    ),
    "an adapter without its base": (
        an_adapter,
        PLAIN,
        "is an adapter on ``, which is no folder of a model here. Restore that, name its place as `base_model_name_or",
    ),
    "code of its own": (code_of_its_own, PLAIN, OWN_CODE),
    "a tokenizer with code of its own": (tokenizer_of_its_own, PLAIN, OWN_CODE),
    "no tokenizer": (
        remove("tokenizer*", "*.jinja"),
        PLAIN,
        "cannot be loaded as AutoTokenizer: the folder has no tokenizer",
    ),
    "torn tokenizer": (
        lambda folder: os.truncate(folder / "tokenizer.json", 9),
        PLAIN,
        "cannot be loaded as AutoTokenizer",
    ),
    "fewer embeddings than tokens": (
        fewer_embeddings,
        [row | {"chosen": "a b"} for row in PLAIN],
        "The tokenizer has 259 tokens, and the rows use number 223, but the model has 200 embeddings.",
    ),
    "no end of text": (
        edit_json("tokenizer_config.json", eos_token=None, pad_token=None),
        PLAIN,
        "(train): the tokenizer has no EOS token, so the model could not learn where an answer ends.",
    ),
    "no template": (
        remove("*.jinja"),
        CHAT,
        "(train): row 1 is a conversation, but the tokenizer has no chat template.",
    ),
    "a template that drops the answer": (
        template("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"),
        CHAT,
        "row 1: the chat template leaves out 'chosen' (content) of turn 2, assistant. Set `model.chat_template`",
    ),
    "a template with a typing error": (
        template("{% for m in messages %}\n{{ m.content }"),
        CHAT,
        "(train): the tokenizer's chat template is not valid, line 2: unexpected '}'. Correct",
    ),
    "a template that refuses": (
        template("{{ raise_exception('roles must alternate') }}"),
        CHAT,
        "(train): the chat template refuses row 1: roles must alternate. Correct the row or the template.",
    ),
    "a template that fails": (
        template("{% for m in messages %}{{ 1 // 0 }}{% endfor %}"),
        CHAT,
        "(train): the chat template refuses row 1: integer division or modulo by zero. Correct the row",
    ),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A model and its tokenizer."""
    folder = tmp_path_factory.mktemp("good")
    TINY.build().save_pretrained(folder)
    TINY.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def configured(tiny_local) -> Callable[..., DictConfig]:
    """A run of one task from a model's folder."""
    shape = [text for text in tiny_local("model=pretrained", "model.path=x") if not text.startswith("model.")]
    composed = lru_cache(None)(lambda: compose_config([*shape, "model.path=x", "data.max_length=32"]))

    def go(model: Path, rows: list[dict], folder: Path) -> DictConfig:
        file = folder / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        cfg = composed().copy()
        more = {"model.path": str(model), "cache_dir": str(folder / "cache"), "reference.sft_steps": 0}
        more |= {"specialists.train": "never", "micro_batch_size": None}
        with open_dict(cfg):
            cfg.data.tasks = {"task": {"path": str(file)}}
            cfg.mixer = compose_config(["mixer=uniform"]).mixer
            for key, value in more.items():
                OmegaConf.update(cfg, key, value)
        return cfg

    return go


@pytest.fixture(autouse=True)
def quiet_loading() -> Iterator[None]:
    """Transformers' own report of what does not fit."""
    import transformers

    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(50)
    yield
    transformers.logging.set_verbosity(before)


@pytest.mark.parametrize("case", CASES)
def test_a_folder_that_is_no_good_is_refused(configured, good, tmp_path, case):
    change, rows, said = CASES[case]
    folder = shutil.copytree(good, tmp_path / "model")
    change(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(MixalignError) as caught:
        run(settings_of(configured(folder, rows, tmp_path)), tmp_path / "run")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert not (folder / "executed").exists()
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not (tmp_path / "run" / "model").exists()


def test_the_folder_itself_is_good(configured, good, tmp_path):
    """Else every case would be refused for another reason; code that is not needed is not in the way."""
    folder = shutil.copytree(good, tmp_path / "model")
    edit_json("config.json", auto_map={"AutoModelForCausalLM": "own.M"})(folder)
    edit_json("tokenizer_config.json", pad_token=None)(folder)
    (folder / "own.py").write_text("raise SystemExit\n")
    run(settings_of(configured(folder, CHAT, tmp_path)), tmp_path / "run")
    assert (tmp_path / "run" / "eval.json").is_file()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"path": ""}, "`model.path` is '', but must be a text that is not empty. Give a folder or a hub id"),
        (
            {"path": "./gone"},
            "`model.path=./gone` cannot be loaded: there is no such folder. Give a folder that exists",
        ),
        ({"path": "~/no-such-model"}, "`model.path=~/no-such-model` cannot be loaded: there is no such folder"),
        ({"path": __file__}, "cannot be loaded: it is a file. Give a folder that exists"),
        ({"path": "x", "dtype": "float17"}, "`model.dtype` is 'float17'. Known: float32, bfloat16"),
        ({"path": "x", "dtype": "int8"}, "`model.dtype` is 'int8'. Known: float32, bfloat16"),
        (
            {"path": "x", "trust_remote_code": "maybe"},
            "`model.trust_remote_code` is 'maybe', but must be true or false",
        ),
    ],
)
def test_settings_of_a_model(settings, said):
    with pytest.raises(MixalignError) as caught:
        Pretrained(**settings).build()
    assert said in str(caught.value)


def test_a_home_folder_that_no_shell_has_put_in(good, monkeypatch):
    monkeypatch.setenv("HOME", str(good.parent))
    assert Pretrained(f"~/{good.name}").build().config.hidden_size == 16


def test_tied_weights_are_not_missing(tmp_path):
    model = TINY.build()
    config = model.config
    config.tie_word_embeddings = True
    tied = type(model)(config)
    tied.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert Pretrained(str(tmp_path)).build().lm_head.weight.equal(tied.lm_head.weight)
