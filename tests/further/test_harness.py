"""lm-evaluation-harness on the live model: its numbers are those that a loop by hand gives."""

import json
import shutil
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixalign.data.generated import generate
from mixalign.errors import MixalignError
from mixalign.reporting.read.runs import load_run
from mixalign.reporting.show.page import write_report
from mixalign.verbs.evaluate import run_further

TASK = """task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{prompt}}}}"
doc_to_target: 0
doc_to_choice: "{{{{[chosen, rejected]}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def tasks(tmp_path):
    rows = generate("reverse", 12, "test", 0)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "tasks" / "tiny_choice.yaml").write_text(TASK.format(rows=tmp_path / "tasks" / "rows.jsonl"))
    return tmp_path / "tasks", rows


def by_hand(folder, rows):
    """Share of rows whose chosen answer has the higher log-probability."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def logp(prompt, answer):
        start, ids = (tokenizer(text)["input_ids"] for text in (prompt, prompt + answer))
        logp_TV = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(logp_TV[t - 1, ids[t]].item() for t in range(len(start), len(ids)))

    return sum(logp(r["prompt"], r["chosen"]) > logp(r["prompt"], r["rejected"]) for r in rows) / len(rows)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the harness's own
def test_a_local_task_gives_the_numbers_of_a_loop_by_hand(finished, tasks, tmp_path, monkeypatch, capsys):
    pytest.importorskip("lm_eval")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    folder, rows = tasks
    run = shutil.copytree(finished, tmp_path / "run")
    found = run_further(str(run), lm_eval=["tiny_choice"], lm_eval_path=folder, out=tmp_path / "out.json")
    values = found["lm_eval"]["tasks"]["tiny_choice"]
    assert values["acc"] == pytest.approx(by_hand(run / "model", rows))
    assert values["acc_stderr"] > 0
    assert values["rows"] == 12
    assert found["lm_eval"]["chat_template"] is False, "the run had none"
    assert json.loads((tmp_path / "out.json").read_text()) == found
    kept = json.loads((run / "eval.json").read_text())["lm_eval"]["tiny_choice"]
    assert kept["acc"] == values["acc"]
    assert kept["version"] == found["lm_eval"]["version"]
    assert "tiny_choice" in capsys.readouterr().out
    assert "| tiny_choice | acc | 12 |" in (run / "model" / "README.md").read_text()
    assert "tiny_choice" in write_report([load_run(run)], tmp_path / "report.html").read_text()
    exported = shutil.copytree(run / "model", tmp_path / "exported")
    again = run_further(str(exported), lm_eval=["tiny_choice"], lm_eval_path=folder, limit=5)
    assert again["lm_eval"]["tasks"]["tiny_choice"]["rows"] == 5
    assert again["lm_eval"]["tasks"]["tiny_choice"]["acc"] == pytest.approx(by_hand(exported, rows[:5]))
    with pytest.raises(MixalignError, match=r"knows no task `tiny_choise`\. Did you mean `tiny_choice`"):
        run_further(str(exported), lm_eval=["tiny_choise"], lm_eval_path=folder)


def test_where_it_is_missing_the_command_that_installs_it_is_named(finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MixalignError, match=r"pip install 'mixalign\[lm-eval\]'"):
        run_further(str(finished), lm_eval=["any"])
