"""Presets for public data sets, on rows of the shape that their cards document; the sentences are ours."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mixalign.chat.templates import template_text
from mixalign.config.compose import CONF, compose_settings
from mixalign.data.read.formats import example_kind, to_example
from mixalign.data.read.sources import load_task
from mixalign.data.tokens.tokenise import tokenise
from mixalign.errors import MixalignError
from mixalign.jobs.job import prepare
from mixalign.models.tiny import byte_tokenizer

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "formats.md").read_text()
PRESETS = sorted(p.stem for p in CONF.glob("data/[!_]*.yaml") if "kind:" in p.read_text())
TULU = "allenai/tulu-3-sft-mixture"


def turns(*texts):
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def ultrafeedback(n):
    ask = f"Name {n} fruits."
    both = {name: turns(ask, f"{name} {n}") for name in ("chosen", "rejected")}
    return {
        "prompt": ask,
        "prompt_id": f"{n:x}",
        **both,
        "messages": both["chosen"],
        "score_chosen": 8.0,
        "score_rejected": 3.5,
    }


def hh(n):
    ask = f"\n\nHuman: How is day {n}?\n\nAssistant:"
    return {"chosen": f"{ask} chosen {n}", "rejected": f"{ask} rejected {n}"}


def saferlhf(n):
    answers = {"response_0": f"chosen {n}", "response_1": f"rejected {n}"}
    labels = {"is_response_0_safe": True, "is_response_1_safe": False, "better_response_id": 0, "safer_response_id": 1}
    return {"prompt": f"What about {n}?", **answers, "prompt_source": "ours", **labels}


def helpsteer2(n):
    """Of two turns or, every third one, of three; the answers change places."""
    ask = f"Count to {n}.\n" + ("<extra_id_1>Assistant\nWhy?\n<extra_id_1>User\nSo that I sleep." if n % 3 == 0 else "")
    first, second, strength = (f"chosen {n}", f"rejected {n}", -1) if n % 2 else (f"rejected {n}", f"chosen {n}", 3)
    more = {"preference_statement": "One is better.", "preference_elaboration": "It counts."}
    more |= {name: [{"strength": 1}] for name in ("three_most_similar_preferences", "all_preferences_unprocessed")}
    strength = 0 if n % 10 == 9 else strength
    row = {"split": "train" if n < 90 else "val", "prompt": ask, "response_1": first, "response_2": second}
    return row | {"preference_strength": strength} | more


def helpsteer3(n):
    row = {"domain": "general", "language": "english", "context": turns(f"Count to {n}."), "overall_preference": -2}
    more = [{"score": -2, "reasoning": "It counts.", "feedback1": "Good.", "feedback2": "Bad."}]
    row |= {"response1": f"chosen {n}", "response2": f"rejected {n}", "individual_preference": more}
    if n % 4 == 1:
        row |= {"response1": f"rejected {n}", "response2": f"chosen {n}", "overall_preference": 3}
    return row | ({"overall_preference": 0} if n % 10 == 9 else {})


def tulu3_preference(n):
    ask = f"Add {n} and 1."
    both = {name: turns(ask, f"{name} {n}") for name in ("chosen", "rejected")}
    return {"id": f"row-{n}", "prompt": ask, **both, "source": "ours"}


def openmath2(n):
    more = {"expected_answer": str(n), "problem_source": "augmented_math"}
    return {"problem": f"What is {n} + 0?", "generated_solution": f"chosen {n}", **more}


def magicoder(n):
    more = {"lang": "python", "raw_index": n, "index": n, "seed": "x = 1", "openai_fingerprint": None}
    return {**more, "problem": f"Print {n}.", "solution": f"chosen {n}"}


def of_sources(name):
    """Rows of every source that the tasks of a preset name, and of one that none does."""
    sources = ["somebody/else"]
    for task in yaml.safe_load((CONF / "data" / f"{name}.yaml").read_text())["tasks"].values():
        wanted = task["where"]["source"]
        sources += [wanted] if isinstance(wanted, str) else wanted
    return [
        {"id": f"{source}-{n}", "messages": turns(f"Ask {source} {n}.", f"chosen {n}"), "source": source}
        for source in sources
        for n in range(20)
    ]


def rows(make, number=40, first=0):
    return [make(n) for n in range(first, first + number)]


SETS = {  # (path, arguments) -> the splits that the card names
    "ultrafeedback": lambda **_: {"train_prefs": rows(ultrafeedback), "test_prefs": rows(ultrafeedback, 9, 90)},
    "hh": lambda data_dir: {"train": rows(hh, 30 + len(data_dir)), "test": rows(hh, 9, 90)},
    "saferlhf": lambda **_: {"train": rows(saferlhf), "test": rows(saferlhf, 9, 90)},
    "helpsteer2": lambda data_dir: {"train": rows(helpsteer2) + rows(helpsteer2, 9, 90)},
    "helpsteer3": lambda name: {"train": rows(helpsteer3), "validation": rows(helpsteer3, 9, 90)},
    "tulu3_preference": lambda **_: {"train": rows(tulu3_preference)},
    "openmath2": lambda **_: {"train": [], "train_1M": rows(openmath2), "train_2M": []},
    "magicoder": lambda **_: {"train": rows(magicoder)},
    "tulu3_sft": lambda **_: {"train": of_sources("tulu3_sft")},
    "wildguard": lambda **_: {"train": of_sources("wildguard")},
}  # fmt: skip
TEST_ROWS = {"ultrafeedback": 9, "hh": 9, "saferlhf": 9}


def settings(*names, **more):
    sft = any(_kinds(name) == {"supervised"} for name in names)
    return compose_settings([f"data=[{','.join(names)}]", f"objective={'sft' if sft else 'dpo'}"])


def _kinds(name):
    return {spec.kind for spec in compose_settings([f"data={name}"]).data.tasks.values()}


@pytest.fixture
def public(hub, monkeypatch):
    """A stand-in for the hub: `load_dataset` gives made-up rows for the sets of the presets that are named."""
    import datasets

    asked = []

    def at(*names):
        paths = {}
        for name in names:
            for task in yaml.safe_load((CONF / "data" / f"{name}.yaml").read_text())["tasks"].values():
                hub.answers[f"datasets/{task['path']}"] = (404, "EntryNotFound")
                paths[task["path"]] = SETS[name]

        def load_dataset(path, **arguments):
            asked.append((path, arguments))
            made = paths[path](**arguments)
            return datasets.DatasetDict({split: datasets.Dataset.from_list(part) for split, part in made.items()})

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return at


def chat_tokenizer():
    made = byte_tokenizer()
    made.chat_template = template_text("chatml")
    return made


@pytest.mark.long
@pytest.mark.parametrize("name", PRESETS)
def test_rows_of_the_documented_shape_are_read(name, public):
    """The better answer is the chosen one, the splits are those of the card, and every answer is learned."""
    public(name)
    tokenizer = chat_tokenizer()
    for task, spec in settings(name).data.tasks.items():
        read = load_task(task, spec, chat=True)
        wanted = {"train", "validation"} | ({"test"} if name in TEST_ROWS else set())
        assert {*read} == wanted
        assert len(read.get("test", ())) == TEST_ROWS.get(name, 0)
        assert {example_kind(row) for part in read.values() for row in part} == {spec.kind}
        better = "rejected" if task == "saferlhf_safe" else "chosen"
        for row in read["train"]:
            assert _answer(row).strip().startswith(f"{better} "), row
        form = "preference" if spec.kind == "preference" else "supervised"
        table, counts = tokenise(read["train"], tokenizer, task=task, form=form, max_length=1024)
        assert counts.kept == len(read["train"]) > 8
        assert table.num_tokens_NS.min() > 0


def _answer(row):
    answer = row.get("chosen") or row.get("completion") or row["messages"]
    return answer if isinstance(answer, str) else answer[-1]["content"]


def test_the_arguments_of_the_hub_are_those_of_the_card(public):
    asked = public("hh", "helpsteer3")
    for task, spec in settings("hh", "helpsteer3").data.tasks.items():
        load_task(task, spec, chat=True)
    folders = ["harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled"]
    wanted = [("Anthropic/hh-rlhf", {"data_dir": folder}) for folder in folders]
    assert asked == [*wanted, ("nvidia/HelpSteer3", {"name": "preference"})]


def test_rows_without_a_better_answer_are_left_out_with_a_count(public, caplog):
    public("helpsteer3")
    (spec,) = settings("helpsteer3").data.tasks.values()
    read = load_task("helpsteer3", spec, chat=True)
    assert len(read["train"]) == 36
    assert "4 of 49 rows of task `helpsteer3` are left out" in caplog.text
    assert "neither answer is better" in caplog.text


def test_turns_of_helpsteer2_are_turns_and_its_validation_rows_stay_out(public, caplog):
    asked = public("helpsteer2")
    (spec,) = settings("helpsteer2").data.tasks.values()
    read = load_task("helpsteer2", spec, chat=True)
    assert asked == [("nvidia/HelpSteer2", {"data_dir": "preference"})]
    assert sum(map(len, read.values())) == 36
    assert "4 of 40 rows of task `helpsteer2` are left out" in caplog.text
    prompts = [row["prompt"] for part in read.values() for row in part]
    assert turns("Count to 0.", "Why?", "So that I sleep.") in prompts
    assert turns("Count to 1.") in prompts


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a<extra_id_1>Bot\nb<extra_id_1>User\nc", "turn 2 of `prompt` is 'Bot"),
        ("a<extra_id_1>Assistant\nb", "the last turn of `prompt` is not the user's"),
        ("a<extra_id_1>Assistant\n\n<extra_id_1>User\nc", "turn 2 of `prompt` is empty"),
        ("", "`prompt` is empty"),
        (3, "`prompt` is 3"),
    ],
)
def test_other_marks_are_refused(prompt, words):
    with pytest.raises(MixalignError, match=words):
        to_example({"prompt": prompt, "response_1": "x", "response_2": "y", "preference_strength": 1}, {})


def test_tasks_of_one_table_have_the_rows_of_their_sources(public):
    public("tulu3_sft")
    specs = settings("tulu3_sft").data.tasks
    sizes = {task: sum(map(len, load_task(task, spec, chat=True).values())) for task, spec in specs.items()}
    assert sizes == {task: 20 * len(_listed(spec.where["source"])) for task, spec in specs.items()}
    wrong = replace(specs["tulu3_code"], where={"source": "allenai/nothing"})
    with pytest.raises(
        MixalignError, match=r"`where` wants `source` to be 'allenai/nothing', which no row has. There are"
    ):
        load_task("tulu3_code", wrong, chat=True)
    with pytest.raises(MixalignError, match=r"`where` names `sourc`, which is no column. Did you mean `source`"):
        load_task("tulu3_code", replace(wrong, where={"sourc": "x"}), chat=True)


def _listed(value):
    return [value] if isinstance(value, str) else value


@pytest.mark.long
@pytest.mark.parametrize(
    "names",
    [("hh", "ultrafeedback", "saferlhf"), ("magicoder", "openmath2", "wildguard"), ("generated", "tulu3_preference")],
)
def test_several_are_one_mixture(names):
    tasks = [task for name in names for task in settings(name).data.tasks]
    assert [*settings(*names).data.tasks] == tasks
    assert len({*tasks}) == len(tasks)


def test_several_are_read_and_mixed(public, tmp_path):
    public("hh", "ultrafeedback")
    overrides = [
        "data=[hh,ultrafeedback]",
        "model.chat_template=chatml",
        f"cache_dir={tmp_path}",
        "data.tasks.hh_helpful_base=null",
    ]
    job = prepare(compose_settings(overrides))
    assert job.tasks == ["hh_harmless_base", "hh_helpful_online", "hh_helpful_rejection_sampled", "ultrafeedback"]
    assert [len(table) for table in job.data["test"]] == [9, 9, 9, 9]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["data=[hh,magicoder]"],
            r"objective=dpo learns from preference rows.*`magicoder`: rows with a single answer.*sft",
        ),
        (["data=tulu3_sft"], r"objective=dpo .*`tulu3_math`, .*data.tasks.tulu3_math=null.*objective=sft"),
        (["data=[hh,openmath2]", "objective=kto"], r"objective=kto learns from rows with a label or preference rows"),
        (["data=[hh,ultrafedback]"], r"`data` has no entry `ultrafedback`. Did you mean `ultrafeedback`"),
        (["data=hh,ultrafeedback"], r"add -m .*`data=\[hh,ultrafeedback\]`"),
    ],
)
def test_what_cannot_be_mixed_is_said_before_anything_is_read(overrides, says, hub, tmp_path):
    with pytest.raises(MixalignError, match=says):
        prepare(compose_settings([*overrides, f"cache_dir={tmp_path}"]))
    assert hub.asked == []


def test_pairs_serve_fine_tuning_as_well(public, tmp_path):
    public("hh", "magicoder")
    overrides = ["data=[hh,magicoder]", "objective=sft", "model.chat_template=chatml", f"cache_dir={tmp_path}"]
    assert len(prepare(compose_settings(overrides)).tasks) == 5


def test_the_page_lists_every_preset():
    """Name, tasks, kind and where it comes from, out of the files."""
    listed = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.partition("## Public sets")[2], re.MULTILINE))
    assert [*listed] == PRESETS == sorted(SETS)
    for name in PRESETS:
        text = (CONF / "data" / f"{name}.yaml").read_text()
        tasks = yaml.safe_load(text)["tasks"]
        (path,) = {task["path"] for task in tasks.values()}
        (kind,) = {task["kind"] for task in tasks.values()}
        licence = re.search(r"Licence: (.+?)(?:\.\s|[;(])", text.replace("\n# ", " "))[1].strip()
        names = ", ".join(f"`{task}`" for task in tasks)
        said, _, note = listed[name].partition("; ")
        assert said == f"{path} | {names} | {kind} | {licence}"
        assert ("not checked against the hub" in note) == ("not checked against the hub" in text.replace("\n# ", " "))
