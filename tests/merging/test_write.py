"""Folders on disk: streamed merges equal those in memory, and models that do not fit are refused."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from mixalign.errors import MixalignError
from mixalign.merging.formulas import keep_largest, ties
from mixalign.merging.methods import METHODS, Merge
from mixalign.merging.read import model_folder
from mixalign.merging.write import merge_folders
from mixalign.models.tiny import byte_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.*tie_word_embeddings=True.*", "ignore:.*save_embedding_layers.*")


def llama(seed=0, **settings):
    sizes = {"vocab_size": 264, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    torch.manual_seed(seed)
    config = LlamaConfig(**(sizes | {"num_attention_heads": 4, "num_key_value_heads": 2} | settings))
    return LlamaForCausalLM(config)


def save(model, folder, **how):
    model.save_pretrained(folder, **how)
    byte_tokenizer().save_pretrained(folder)
    return folder


def adapter(base, folder, seed, **settings):
    """A random adapter on the model of a folder; also the same model with the adapter merged in by PEFT."""
    lora = {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"} | settings
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**lora))
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder / "adapter")
    model.merge_and_unload().save_pretrained(folder / "full")
    return folder / "adapter", folder / "full"


def weights(folder):
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def assert_same(found, wanted, atol=1e-6):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=atol, msg=name)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """base, m0, m1: random models of one shape."""
    root = tmp_path_factory.mktemp("models")
    return {name: save(llama(seed), root / name) for seed, name in enumerate(["base", "m0", "m1"])}


@pytest.fixture(scope="module")
def adapters(folders, tmp_path_factory):
    """[(adapter, the same materialised)] with different ranks, scales and kinds of LoRA."""
    root = tmp_path_factory.mktemp("adapters")
    kinds = [
        {"r": 2},
        {"r": 4, "use_rslora": True},
        {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"layers.1.self_attn.q_proj": 32}},
        {"target_modules": ["embed_tokens", "v_proj"], "modules_to_save": ["lm_head"]},
    ]
    return [adapter(folders["base"], root / str(i), 10 + i, **kind) for i, kind in enumerate(kinds)]


@pytest.mark.parametrize("method", METHODS)
def test_a_streamed_merge_is_the_one_in_memory(folders, tmp_path, method):
    how = Merge(method, (0.4, 0.6), density=0.3, trim="tensor", seed=5)
    base, *models = (weights(folders[name]) for name in ("base", "m0", "m1"))
    wanted = {}
    for name, start in base.items():
        theta_M = torch.stack([model[name] for model in models])
        x_M = theta_M - start if METHODS[method].on_deltas else theta_M
        merged = how.apply(x_M, how.weight_M(2), name)
        wanted[name] = start + merged if METHODS[method].on_deltas else merged
    merge_folders([folders["m0"], folders["m1"]], how, tmp_path / "out", folders["base"])
    assert_same(weights(tmp_path / "out"), wanted)


def test_ties_trims_the_whole_model_as_its_paper_does(folders, tmp_path):
    """The reference flattens all parameters into one vector."""
    base, m0, m1 = (weights(folders[name]) for name in ("base", "m0", "m1"))
    tau_M = torch.stack([torch.cat([(m[name] - base[name]).flatten() for name in base]) for m in (m0, m1)])
    kept = [int((keep_largest(tau, 0.2) != 0).sum()) for tau in tau_M]
    assert kept == [int(0.2 * tau_M.shape[1])] * 2
    merged = ties(tau_M, torch.tensor([0.5, 0.5]), density=0.2)
    merge_folders([folders["m0"], folders["m1"]], Merge("ties", density=0.2), tmp_path / "out", folders["base"])
    found = weights(tmp_path / "out")
    flat = torch.cat([(found[name] - base[name]).flatten() for name in base])
    torch.testing.assert_close(flat, merged, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_shards_change_nothing_but_the_files(folders, tmp_path, method):
    sharded = [save(llama(i), tmp_path / str(i), max_shard_size="8KB") for i in range(3)]
    assert len(list(sharded[0].glob("*.safetensors"))) > 3
    how = Merge(method, density=0.5)
    merge_folders(sharded[1:], how, tmp_path / "shards", sharded[0])
    merge_folders([folders["m0"], sharded[2]], how, tmp_path / "one", folders["base"])
    assert_same(weights(tmp_path / "shards"), weights(tmp_path / "one"), atol=0)
    read = [json.loads((f / "model.safetensors.index.json").read_text()) for f in (sharded[0], tmp_path / "shards")]
    assert read[0] == read[1]
    assert_same(AutoModelForCausalLM.from_pretrained(tmp_path / "shards").state_dict(), weights(tmp_path / "one"))


def test_the_merge_loads_as_a_model_with_its_tokenizer(folders, tmp_path):
    merge_folders([folders["m0"], folders["m1"]], Merge(), tmp_path / "out")
    model, tokenizer = (kind.from_pretrained(tmp_path / "out") for kind in (AutoModelForCausalLM, AutoTokenizer))
    ids = tokenizer("hello", return_tensors="pt")["input_ids"]
    assert model(ids).logits.shape == (1, len("hello") + 1, 264)
    assert tokenizer.chat_template == byte_tokenizer().chat_template
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert json.loads((tmp_path / "out" / "merge.json").read_text())["weights"] == [0.5, 0.5]


def with_template(folder, text, inside=False):
    """Saves a tokenizer whose chat template is a file of its own or, `inside`, a line of tokenizer_config.json."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = text
    tokenizer.save_pretrained(folder, save_jinja_files=not inside)
    if inside:
        (folder / "chat_template.jinja").unlink(missing_ok=True)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", ["full", "adapter"])
@pytest.mark.parametrize(
    ("trained", "wanted"), [(["new", "new"], "new"), (["new", None], "new"), (["new", "other"], "old")]
)
def test_a_merge_has_the_chat_template_that_its_models_were_trained_with(tmp_path, kind, inside, trained, wanted):
    base = save(llama(), tmp_path / "base")
    with_template(base, "old", inside)
    models = []
    for seed, text in enumerate(trained):
        if kind == "full":
            models.append(tmp_path / str(seed))
            llama(seed).save_pretrained(models[-1])
        else:
            models.append(adapter(base, tmp_path / str(seed), seed)[0])
        if text:
            with_template(models[-1], text)
    merge_folders(models, Merge(), tmp_path / "out", base)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == wanted


def test_tied_embeddings_stay_tied(tmp_path):
    models = [save(llama(i, tie_word_embeddings=True), tmp_path / str(i)) for i in range(2)]
    path = models[1] / "model.safetensors"  # as some models on the hub, with the tied weight written twice
    twice = load_file(path)
    save_file(twice | {"lm_head.weight": twice["model.embed_tokens.weight"].clone()}, path, {"format": "pt"})
    merge_folders(models, Merge(), tmp_path / "out")
    assert "lm_head.weight" not in weights(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    wanted = sum(weights(folder)["model.embed_tokens.weight"] for folder in models) / 2
    torch.testing.assert_close(model.lm_head.weight, wanted)


def test_sums_are_float32_and_the_file_is_the_bases_type(folders, tmp_path):
    """In bfloat16, 256 + 1 + 1 would be 256."""
    files = []
    for i, value in enumerate([256.0, 1.0, 1.0]):
        model = llama().to(torch.bfloat16)
        model.load_state_dict({k: torch.full_like(v, value) for k, v in model.state_dict().items()})
        files.append(save(model, tmp_path / str(i)))
    merge_folders(files, Merge("task_arithmetic", (1, 1, 1), scale=-1), tmp_path / "out", files[1])
    found = weights(tmp_path / "out")["model.norm.weight"]  # 1 - (255 + 0 + 0)
    assert found.dtype == torch.bfloat16
    assert found[0] == -254


class TestAdapters:
    @pytest.mark.parametrize("method", METHODS)
    def test_a_merge_is_that_of_the_materialised_models(self, folders, adapters, tmp_path, method):
        chosen = adapters[:2] if method == "slerp" else adapters
        how = Merge(method, density=0.4, trim="tensor")
        for place, kind in enumerate(("adapter", "full")):
            merge_folders([pair[place] for pair in chosen], how, tmp_path / kind, folders["base"])
        assert_same(weights(tmp_path / "adapter"), weights(tmp_path / "full"))

    @pytest.mark.parametrize("number", range(4))
    def test_one_adapter_is_pefts_merged_model(self, adapters, tmp_path, number):
        merge_folders([adapters[number][0]], Merge(), tmp_path / "out")
        assert_same(weights(tmp_path / "out"), weights(adapters[number][1]))

    def test_the_base_is_the_one_that_adapters_name(self, folders, adapters, tmp_path):
        pair = [adapters[0][0], adapters[1][0]]
        merge_folders(pair, Merge("ties"), tmp_path / "named")
        merge_folders(pair, Merge("ties"), tmp_path / "given", folders["base"])
        assert_same(weights(tmp_path / "named"), weights(tmp_path / "given"), atol=0)
        assert (tmp_path / "named" / "tokenizer.json").is_file()

    def test_a_copy_of_the_base_elsewhere_is_the_base(self, folders, adapters, tmp_path):
        copy = shutil.copytree(folders["base"], tmp_path / "copy")
        merge_folders([adapters[0][0], adapters[1][0]], Merge(), tmp_path / "out", copy)

    def test_linear_is_pefts_exact_combination(self, folders, adapters, tmp_path):
        """PEFT's `cat` stacks the factors: the sum of the changes; its `linear` would add cross terms."""
        from peft import PeftModel

        (a, _), (b, _) = adapters[:2]
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folders["base"]), a, "a")
        model.load_adapter(b, "b")
        model.add_weighted_adapter(["a", "b"], [0.3, 0.7], "both", combination_type="cat")
        model.set_adapter("both")
        merge_folders([a, b], Merge("linear", (0.3, 0.7)), tmp_path / "out")
        assert_same(weights(tmp_path / "out"), model.merge_and_unload().state_dict())

    def test_transposed_layers(self, tmp_path):
        """GPT-2 keeps its matrices transposed."""
        from transformers import GPT2Config, GPT2LMHeadModel

        model = GPT2LMHeadModel(GPT2Config(vocab_size=264, n_embd=16, n_layer=1, n_head=2, n_positions=32))
        base = save(model, tmp_path / "base")
        settings = {"target_modules": ["attn.c_proj"], "fan_in_fan_out": True}  # square
        one, full = adapter(base, tmp_path / "lora", 3, **settings)
        merge_folders([one], Merge(), tmp_path / "out")
        assert_same(weights(tmp_path / "out"), weights(full))


class TestRefusals:
    @pytest.fixture
    def refuse(self, tmp_path):
        def go(models, how=None, base=None):
            with pytest.raises(MixalignError) as caught:
                merge_folders(models, how or Merge(), tmp_path / "out", base)
            assert not list(tmp_path.glob("*out*"))
            return str(caught.value)

        return go

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({"hidden_size": 32}, "differ in the shape of `lm_head.weight`: [264, 32] and [264, 16]"),
            ({"vocab_size": 272}, "resize the embeddings of one of them"),
            ({"num_hidden_layers": 1}, "lacks `model.layers.1.input_layernorm.weight`: it and"),
            ({"num_hidden_layers": 3}, "has `model.layers.2.input_layernorm.weight` as well"),
            ({"num_attention_heads": 2, "head_dim": 4}, "differ in `num_attention_heads` of config.json: 2 and 4"),
        ],
    )
    def test_another_architecture(self, folders, refuse, tmp_path, settings, says):
        other = save(llama(**settings), tmp_path / "other")
        assert says in refuse([folders["m0"], other])

    def test_another_vocabulary_of_the_same_size(self, folders, refuse, tmp_path):
        other = save(llama(), tmp_path / "other")
        text = (other / "tokenizer.json").read_text().replace('"a":', '"TMP":').replace('"b":', '"a":')
        (other / "tokenizer.json").write_text(text.replace('"TMP":', '"b":'))
        assert "differ in their vocabularies: the token 'a' is number" in refuse([folders["m0"], other])

    def test_an_adapter_of_another_base(self, folders, adapters, refuse):
        message = refuse([adapters[0][0]], base=folders["m1"])
        assert f"is an adapter on {folders['base']}, whose weights are not those of {folders['m1']}" in message

    def test_adapters_of_two_bases(self, folders, adapters, refuse, tmp_path):
        other, _ = adapter(folders["m0"], tmp_path / "lora", 1)
        assert "whose weights are not those of" in refuse([adapters[0][0], other])

    def test_an_adapter_whose_base_is_not_here(self, adapters, refuse, tmp_path):
        lost = shutil.copytree(adapters[0][0], tmp_path / "lost")
        config = json.loads((lost / "adapter_config.json").read_text())
        (lost / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "org/gone"}))
        assert "is an adapter on `org/gone`, which is no folder of a model here. Give its folder: --base" in refuse(
            [lost]
        )

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"peft_type": "IA3"}, "adapter of type IA3; only LORA"),
            ({"use_dora": True}, "no plain LoRA (use_dora=True)"),
            ({"init_lora_weights": "pissa"}, "no plain LoRA (init_lora_weights=pissa)"),
        ],
    )
    def test_other_kinds_of_adapters(self, adapters, refuse, tmp_path, change, says):
        other = shutil.copytree(adapters[0][0], tmp_path / "other")
        config = json.loads((other / "adapter_config.json").read_text())
        (other / "adapter_config.json").write_text(json.dumps(config | change))
        assert says in refuse([other])

    def test_an_adapter_that_lacks_a_factor_or_names_no_parameter(self, adapters, refuse, tmp_path):
        other = shutil.copytree(adapters[0][0], tmp_path / "other")
        path = other / "adapter_model.safetensors"
        tensors = load_file(path)
        key = next(name for name in tensors if "q_proj.lora_A" in name)
        save_file({name: t for name, t in tensors.items() if name != key}, path)
        assert "is not whole: of `model.layers.0.self_attn.q_proj.weight` it has only" in refuse([other])
        save_file({name.replace("q_proj", "qq_proj"): t for name, t in tensors.items()}, path)
        assert "qq_proj.weight`, which" in refuse([other])

    def test_an_adapter_on_the_tied_embedding(self, refuse, tmp_path):
        base = save(llama(tie_word_embeddings=True), tmp_path / "base")
        one, _ = adapter(base, tmp_path / "lora", 0, target_modules=["embed_tokens"])
        assert "is also the output layer; a merge would change both" in refuse([one])

    def test_a_shard_that_is_missing(self, folders, refuse, tmp_path):
        other = save(llama(), tmp_path / "other", max_shard_size="8KB")
        lost = min(other.glob("model-*.safetensors"))
        lost.unlink()
        assert f"names {lost.name}, which is missing" in refuse([folders["m0"], other])

    def test_weights_in_another_format(self, folders, refuse, tmp_path):
        other = save(llama(), tmp_path / "other")
        (other / "model.safetensors").rename(other / "pytorch_model.bin")
        assert "has neither model.safetensors nor model.safetensors.index.json" in refuse([folders["m0"], other])

    def test_a_quantised_model(self, refuse, tmp_path):
        other = save(llama(), tmp_path / "other")
        config = json.loads((other / "config.json").read_text()) | {"quantization_config": {"bits": 4}}
        (other / "config.json").write_text(json.dumps(config))
        assert "is quantised" in refuse([other])

    def test_buffers_of_integers_that_differ(self, refuse, tmp_path):
        models = []
        for number in range(2):
            models.append(save(llama(), tmp_path / str(number)))
            path = models[-1] / "model.safetensors"
            save_file(load_file(path) | {"steps": torch.tensor([number])}, path, {"format": "pt"})
        assert "`steps` holds torch.int64 numbers, which have no average" in refuse(models)

    def test_methods_on_task_vectors_want_a_base(self, folders, refuse):
        message = refuse([folders["m0"], folders["m1"]], Merge("ties"))
        assert "`ties` merges differences to the model that all of them started from. Give it: --base" in message

    def test_a_place_that_is_taken(self, folders, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("kept")
        with pytest.raises(MixalignError, match="already exists"):
            merge_folders([folders["m0"]], Merge(), tmp_path / "out")
        assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


def test_a_path_means_a_model_a_run_or_a_specialist(folders, tmp_path):
    assert model_folder(folders["m0"]) == folders["m0"]
    shutil.copytree(folders["m0"], tmp_path / "run" / "model")
    assert model_folder(tmp_path / "run") == tmp_path / "run" / "model"
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "config.yaml").write_text("")
    for path, says in (
        ("cut", "is not finished: its run has no model yet"),
        ("none", "no such folder"),
        (".", r"one of the runs in it is wanted \(cut\)"),
    ):
        with pytest.raises(MixalignError, match=says):
            model_folder(tmp_path / path)
