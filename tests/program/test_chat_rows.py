"""Settings of conversations, from the command line to the tokens: what is learned of them, and the day they print."""

import json
from datetime import date

import pytest
from omegaconf import OmegaConf

from mixalign.config.compose import compose_settings
from mixalign.errors import MixalignError
from mixalign.jobs import day as module
from mixalign.jobs.job import prepare
from tests.tiny_runs import train_from_overrides

DATED = (
    "<s>Today is {{ strftime_now('%Y-%m-%d') }}.{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{{ eos_token if m.role == 'assistant' }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def own(tiny_local, tmp_path):
    """The overrides of one task of conversations, with a cache of their own."""
    rows = [
        {"messages": [{"role": role, "content": text} for role, text in turns]}
        for turns in (
            [("user", f"ask {n}"), ("assistant", "a"), ("user", "more"), ("assistant", "b")] for n in range(9)
        )
    ]
    path = tmp_path / "talk.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "dated.jinja").write_text(DATED)
    known = ("objective=sft", f"data.tasks.talk.path={path}", f"cache_dir={tmp_path / 'cache'}")
    return lambda *more: tiny_local(*known, *more)


def dated(tmp_path) -> str:
    return f"model.chat_template={tmp_path / 'dated.jinja'}"


def text_of(overrides: list[str]) -> str:
    job = prepare(compose_settings(overrides))
    row = job.data["train"][0][0]
    return job.tokenizer.decode([*row["prompt"], *row["completions"][0]])


@pytest.mark.parametrize(("train_on", "learned"), [("assistant", 4), ("last", 2)])
def test_train_on(own, train_on, learned):
    job = prepare(compose_settings(own(f"data.tasks.talk.train_on={train_on}")))
    table = job.data["train"][0]
    assert table.num_tokens_NS.tolist() == [[learned]] * len(table)  # letters, each with the token that ends its turn


def test_a_word_that_is_no_way_to_train(own):
    with pytest.raises(MixalignError, match=r"`data\.tasks\.talk\.train_on` is 'first'"):
        compose_settings(own("data.tasks.talk.train_on=first"))


def test_a_cache_keeps_the_day_of_its_templates(own, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    for today in (date(2026, 1, 30), date(2026, 1, 31)):
        monkeypatch.setattr(module, "date", type("Date", (date,), {"today": lambda today=today: today}))
        assert "Today is 2026-01-30." in text_of(own(dated(tmp_path)))
    assert "it is 2026-01-30 for this run (`data.date`)" in caplog.text
    assert "Today is 2025-12-24." in text_of(own(dated(tmp_path), "data.date=2025-12-24"))
    assert not any("2026" in record for record in [text_of(own())])  # a template without a date asks nobody


def test_a_run_says_its_day_and_keeps_it(own, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "date", type("Date", (date,), {"today": lambda: date(2026, 1, 30)}))
    train_from_overrides(own(dated(tmp_path), "mixer=uniform"), str(tmp_path / "run"))
    assert OmegaConf.load(tmp_path / "run" / "config.yaml").data.date == "2026-01-30"
    (tmp_path / "cache" / "date.txt").write_text("2026-01-31")  # as in another cache
    with pytest.raises(MixalignError, match=r"data\.date: got '2026-01-30', wanted '2026-01-31'"):
        train_from_overrides(own(dated(tmp_path), "mixer=uniform"), str(tmp_path / "run"))
    again = own(dated(tmp_path), "mixer=uniform", "data.date=2026-01-30")
    assert train_from_overrides(again, str(tmp_path / "run"))["steps"] == 4


@pytest.mark.parametrize("wrong", ["tomorrow", "2026-1-1", "20260101", "5"])
def test_a_date_is_a_date(own, wrong):
    with pytest.raises(MixalignError, match=r"`data\.date` is .*2026-01-31, or null"):
        compose_settings(own(f"data.date={wrong}"))


def test_what_a_template_loses_can_be_let_through(own, tmp_path, caplog):
    (tmp_path / "short.jinja").write_text(DATED.replace("{{ m.content }}", "{{ m.content.split('k')[-1] }}"))
    short = f"model.chat_template={tmp_path / 'short.jinja'}"
    with pytest.raises(MixalignError, match=r"`talk` \(train\): row 1: the chat template leaves out 'ask' .*turn 1"):
        prepare(compose_settings(own(short)))
    prepare(compose_settings(own(short, "data.on_lost_text=warn")))
    assert "leaves out 'ask' (content) of turn 1" in caplog.text
