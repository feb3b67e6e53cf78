"""One flag compares mixers and seeds; then a report, and Weights & Biases without an account."""

import csv
import json

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sweep(cli, tiny, tmp_path_factory):
    """`mixalign train -m mixer=uniform,ama_s seed=0,1` in a fresh cache."""
    root = tmp_path_factory.mktemp("sweep")
    settings = tiny(f"cache_dir={root / 'cache'}", f"run_dir={root / 'runs'}", "mixer=uniform,ama_s", "seed=0,1")
    return root, cli("train", "-m", *settings)


def test_a_sweep_makes_a_run_folder_for_each_combination(sweep):
    root, done = sweep
    assert done.returncode == 0, done.stderr
    runs = sorted(path.name for path in (root / "runs").iterdir() if path.is_dir())
    assert runs == ["0_uniform_seed0", "1_uniform_seed1", "2_ama_s_seed0", "3_ama_s_seed1"]
    for name in runs:
        result = json.loads((root / "runs" / name / "eval.json").read_text())
        assert f"{result['mixer']}_seed{result['seed']}" in name
        assert "excess" in result["worst"]  # in a sweep the static mixtures are judged as well
    assert done.stdout.endswith(f"\nnext: `mixalign report {root / 'runs'}` compares the runs\n")


def test_a_sweep_trains_specialists_once(sweep):
    root, done = sweep
    assert len(list((root / "cache" / "specialists").iterdir())) == 3
    assert len(list((root / "cache" / "reference").iterdir())) == 1
    assert done.stderr.count("specialist 1/3") == 1
    assert done.stderr.count("reference: 3 steps") == 1


def test_a_sweep_shows_a_warning_once(sweep):
    root, done = sweep
    assert done.stderr.count("warning: Inside the warm-up are 4 of 4 steps of the generalist") == 1
    assert done.stderr.count("shown once, and came 4 times in this sweep: Inside the warm-up") == 1
    logs = [(run / "train.log").read_text() for run in (root / "runs").iterdir() if run.is_dir()]
    assert all(log.count("WARNING mixalign.verbs.train: Inside the warm-up") == 1 for log in logs)


@pytest.mark.long
def test_the_report_of_a_sweep(sweep, cli):
    root, _ = sweep
    done = cli("report", str(root / "runs"))
    assert done.returncode == 0, done.stderr
    scores = done.stdout.partition("\n\n")[0]
    lines = {line.split()[0]: line.split()[1] for line in scores.splitlines() if line[:1].isalpha()}
    assert lines["uniform"] == lines["ama_s"] == "2"  # seeds
    page = (root / "runs" / "report.html").read_text()
    assert "uniform" in page
    assert "ama_s" in page
    assert 'http-equiv="refresh"' not in page


@pytest.mark.long
def test_wandb_offline_needs_no_account_and_no_network(cli, tiny, tmp_path):
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    own = {
        name: str(tmp_path / name) for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")
    }
    settings = tiny("mixer=uniform", "logger=both", "logger.wandb.offline=true", f"run_dir={tmp_path / 'run'}")
    done = cli("train", *settings, **nowhere, **own, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    with (tmp_path / "run" / "metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["alpha/helpful"] for line in lines if line["alpha/helpful"]]
    assert not (tmp_path / ".netrc").exists()
