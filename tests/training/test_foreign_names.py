"""Names that other libraries have for settings lead to ours."""

import re
from dataclasses import fields
from importlib.util import find_spec

import pytest
from omegaconf import OmegaConf

from mixalign.config.compose import compose_config, compose_settings
from mixalign.errors import MixalignError
from mixalign.training.foreign_names import FOREIGN


@pytest.fixture(scope="module")
def config():
    return OmegaConf.to_container(compose_config(["model=pretrained", "model.path=x", "lora=default"]), resolve=False)


def test_what_they_lead_to_is_there(config):
    for name, here in FOREIGN.items():
        for key in re.findall(r"`([\w.]+)`", here):
            node = config
            for part in key.split("."):
                assert part in node, f"{name} leads to {key}, which is no setting"
                node = node[part]
        assert name not in config, f"{name} is a setting of ours"


def test_those_that_people_type_first_are_known_or_ours(config):
    """Of what a training takes in transformers; a name is ours, in a group of ours, or leads to one."""
    typed = ("learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "output_dir", "run_name")
    typed += ("gradient_accumulation_steps", "warmup_steps", "warmup_ratio", "weight_decay", "seed", "max_grad_norm")
    typed += ("gradient_checkpointing", "lr_scheduler_type", "logging_steps", "eval_steps", "save_steps", "bf16")
    ours = {*config} | {key for node in config.values() if isinstance(node, dict) for key in node}
    assert [name for name in typed if name not in ours and name not in FOREIGN] == []


@pytest.mark.skipif(find_spec("accelerate") is None, reason="transformers' Trainer needs accelerate")
def test_names_are_spelled_as_transformers_spells_them():
    from transformers import TrainingArguments

    theirs = {entry.name for entry in fields(TrainingArguments)}
    assert {"learning_rate", "num_train_epochs", "per_device_train_batch_size", "lr_scheduler_type"} <= theirs


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimizer.learning_rate=1e-4", r"It is `optimizer\.lr` here\."),
        ("+optimizer.learning_rate=1e-4", r"It is `optimizer\.lr` here\."),
        ("learning_rate=1e-4", r"`learning_rate` is no setting\. It is `optimizer\.lr` here\."),
        ("+num_train_epochs=1", r"It is `epochs` here\."),
        ("gradient_accumulation_steps=4", r"It is `micro_batch_size`: a step accumulates"),
        ("weight_decay=0.1", r"Did you mean `optimizer\.weight_decay`\?"),
        ("+reference.learning_rate=1e-4", r"It is `optimizer\.lr` here\."),
        ("lora.rank=8", r"It is `lora\.r` here\."),
        ("trainer.max_steps=8", r"use `steps`"),
        ("trainer.learning_rate=8", r"It is `optimizer\.lr` here\."),
        ("optimizer.learing_rate=1", r"Did you mean `learning_rate`\? It is `optimizer\.lr` here\."),
        ("+optimizer.learing_rate=1", r"Did you mean `learning_rate`\? It is `optimizer\.lr` here\."),
        ("trainer.learing_rate=1", r"Did you mean `learning_rate`\? It is `optimizer\.lr` here\."),
        ("num_train_epoch=3", r"Did you mean `num_train_epochs`\? It is `epochs` here\."),
        ("optimizer.warmup_step=3", r"Did you mean `warmup_steps`\?$"),
    ],
)
def test_the_message_names_ours(override, says):
    with pytest.raises(MixalignError, match=says):
        compose_settings(["lora=default", override])
