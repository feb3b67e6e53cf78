"""The dashboard of W&B is built without a network; saving it asks for an account in one sentence."""

import json
import sys

import pytest

from mixalign.errors import MixalignError
from mixalign.sharing.dashboard import build_workspace

pytestmark = pytest.mark.filterwarnings("ignore")


def test_every_question_has_its_panels():
    pytest.importorskip("wandb_workspaces")
    model = build_workspace("team", "mixtures")._to_model()
    assert (model.entity, model.project) == ("team", "mixtures")
    sections = {one.name: one.panels for one in model.spec.section.panel_bank_config.sections}
    assert [*sections] == ["Mixers compared", "Mixture", "Tasks"]
    text = json.dumps(model.model_dump(mode="json"), default=str)
    for shown in ("^alpha/", "pct-area", "^eval_excess/", "test/worst_excess", "eval/worst_excess", "mixer.value.name"):
        assert shown in text
    assert "specialist_step" in text


def test_without_an_account(in_process, monkeypatch, tmp_path):
    pytest.importorskip("wandb_workspaces")
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, err = in_process("dashboard", "--entity", "team", "--project", "mixtures")
    assert code == 1
    assert "error: Saving a dashboard needs an account of W&B (No API key configured." in " ".join(err.split())


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(MixalignError, match="needs the package wandb-workspaces: `pip install wandb-workspaces`"):
        build_workspace("team", "mixtures")
