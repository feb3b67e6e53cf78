"""Rounds: exact volumes from measured benefits, what is done is not done again, and when the rounds end."""

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from mixalign.config.compose import compose_settings
from mixalign.errors import MixalignError
from mixalign.influence.settings import Influence
from mixalign.jobs.job import prepare
from mixalign.mixers.base import MixSignal
from mixalign.mixers.ideal import Ideal
from mixalign.reporting.read.costs import read_cost
from mixalign.runs import rounds
from mixalign.runs.check import needs_specialists
from mixalign.runs.influence_cost import influence_of, row_passes
from mixalign.runs.rounds_table import rounds_table
from mixalign.training.callbacks.task_log import TaskLog
from tests.tiny_runs import train_from_overrides

IDEAL = ("mixer=ideal", "objective=sft", "mixer.stop=false", "mixer.min_confidence=0.5", "influence.samples=8")
TASKS = ["helpful", "reverse", "compare"]


def read(path: Path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """The folder of a run of three rounds that nobody may change; no other test's specialists are in its cache."""
    folder = tmp_path_factory.mktemp("ideal") / "run"
    train_from_overrides(tiny(*IDEAL, f"cache_dir={folder.parent / 'cache'}"), str(folder))
    return folder


def test_volumes_are_what_the_rule_makes_of_the_benefits(run):
    entries = read(run / "eval.json")["rounds"]
    assert [entry["round"] for entry in entries] == [0, 1, 2]
    assert entries[0]["volumes"] == dict.fromkeys(TASKS, 40)
    mixer = Ideal(min_confidence=0.5)
    _, state = mixer.init(torch.full((3,), 40))
    for before, after in pairwise(entries):
        values = [torch.tensor(list(before[key].values())).double() for key in ("benefit", "confidence")]
        signal = MixSignal(before["round"], torch.ones(3), benefit_K=values[0], confidence_K=values[1])
        state = mixer.update(signal, state)[1]
        assert list(after["volumes"].values()) == state["volume_K"].tolist()
        largest = max(before["benefit"], key=lambda task: abs(before["benefit"][task]))
        assert after["volumes"][largest] in (46, 34) or before["round"] == 1  # 40 * 1.15 and 40 * 0.85
    assert "benefit" not in entries[-1]


def test_the_benefits_are_shown_with_those_of_no_curvature_and_the_rows_behind_them(run):
    entry = read(run / "rounds" / "0" / "benefit.json")
    assert entry["curvature"] == "ekfac"
    assert entry["rows_read"] == dict.fromkeys(TASKS, 8)
    assert all(0.5 <= x <= 1 for x in entry["confidence"].values())
    assert {*entry["identity"]} == {*TASKS}
    assert sum(entry["benefit"].values()) == pytest.approx(0, abs=1e-6)  # at a fixed number of steps only shares count


def test_the_run_has_what_its_best_round_made(run):
    result = read(run / "eval.json")
    best = min(result["rounds"], key=lambda entry: entry["mean_target_loss"])
    assert result["best_round"] == best["round"]
    folder = run / "rounds" / str(best["round"])
    assert result["tasks"] == read(folder / "eval.json")["tasks"]
    assert read(run / "mixture.json") == read(folder / "mixture.json")
    weights, theirs = (AutoModelForCausalLM.from_pretrained(f / "model").state_dict() for f in (run, folder))
    assert all(torch.equal(weights[name], theirs[name]) for name in theirs)


def test_the_target_loss_is_that_of_the_validation_rows(run, tiny):
    entry = read(run / "rounds" / "2" / "round.json")
    assert {*entry["target_loss"]} == {*TASKS}
    assert entry["mean_target_loss"] == pytest.approx(sum(entry["target_loss"].values()) / 3)
    job = replace(prepare(compose_settings(tiny(*IDEAL))), precision="32-true")
    model = AutoModelForCausalLM.from_pretrained(run / "rounds" / "2" / "model")
    assert rounds._target_losses(job, model) == pytest.approx(entry["target_loss"], rel=1e-5)


def test_every_round_starts_from_the_same_weights(run, tiny, monkeypatch, tmp_path):
    """The first round is the run of the proportional mixture: a change of volumes is all that tells rounds apart."""
    plain = tmp_path / "plain"
    train_from_overrides(tiny("mixer=proportional", "objective=sft", "export=last"), str(plain))
    one, other = (read(folder / "eval.json")["tasks"] for folder in (plain, run / "rounds" / "0"))
    measured = ("rows", "loss", "accuracy")  # excess is there where another run has left specialists in the cache
    assert [[one[t][key] for key in measured] for t in one] == [[other[t][key] for key in measured] for t in other]


@pytest.mark.long
def test_a_run_that_was_interrupted_goes_on(run, tiny, tmp_path, monkeypatch):
    """Stopped while the second round's influence is measured, and then once more in the middle of the third."""
    folder, trained, own = tmp_path / "again", [], f"cache_dir={tmp_path}/cache"
    real_measure, real_train, real_log = rounds.measure, rounds.train_generalist, TaskLog.on_train_batch_end

    def measure(*args, **kwargs):
        if len(trained) == 2:
            raise KeyboardInterrupt
        return real_measure(*args, **kwargs)

    def train(generalist):
        trained.append((generalist.folder.name, generalist.resume))
        return real_train(generalist)

    def log(self, trainer, *args):
        if len(trained) == 3 and trainer.global_step == 3:
            raise RuntimeError("power failure")
        real_log(self, trainer, *args)

    monkeypatch.setattr(rounds, "train_generalist", train)
    monkeypatch.setattr(TaskLog, "on_train_batch_end", log)
    monkeypatch.setattr(rounds, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        train_from_overrides(tiny(*IDEAL, own), str(folder))
    monkeypatch.setattr(rounds, "measure", real_measure)
    with pytest.raises(RuntimeError, match="power failure"):
        train_from_overrides(tiny(*IDEAL, own), str(folder))
    train_from_overrides(tiny(*IDEAL, own), str(folder))
    assert [name for name, _ in trained] == ["0", "1", "2", "2"]
    assert trained[-1][1] == folder / "rounds" / "2" / "checkpoints" / "last.ckpt"
    assert read(folder / "eval.json") == read(run / "eval.json")


@pytest.mark.long
def test_other_settings_in_the_same_folder_are_refused(tiny, tmp_path, monkeypatch, refuse):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    folder = tmp_path / "begun"
    monkeypatch.setattr(rounds, "train_generalist", stop)
    with pytest.raises(KeyboardInterrupt):
        train_from_overrides(tiny(*IDEAL), str(folder))
    message = refuse(tiny(*IDEAL, "mixer.m=0.3"), folder)
    assert "mixer.m: got 0.15, wanted 0.3" in message
    with pytest.raises(KeyboardInterrupt):  # what is only shown may change
        train_from_overrides(tiny(*IDEAL, "log_every=2"), str(folder))


def test_a_resume_is_refused(tiny, tmp_path, refuse):
    (tmp_path / "last.ckpt").touch()
    assert "goes on by itself" in refuse(tiny(*IDEAL, f"resume={tmp_path}/last.ckpt"))


def test_a_live_reference_is_refused(tiny, refuse):
    message = refuse(tiny(*IDEAL, "objective=dpo", "lora=default", "reference.mode=adapter_off"))
    assert "reads cached scores" in message


@pytest.mark.parametrize(
    ("losses", "benefits", "ended"),
    [
        ([0.5, 0.4], [{"a": 1.0, "b": -1.0}, {"a": 0.5, "b": -0.1}], ""),
        ([0.5, 0.5], [{"a": 1.0, "b": -1.0}, {"a": 0.5, "b": -0.1}], "the target loss has not fallen"),
        ([0.5, 0.4], [{"a": 1.0, "b": -1.0}, {"a": -0.5, "b": 0.1}], "the benefits point the other way"),
    ],
)
def test_when_the_rounds_end(losses, benefits, ended):
    entries = [{"mean_target_loss": x, "benefit": b} for x, b in zip(losses, benefits, strict=True)]
    over = [rounds._ends(entries, why(entries)) for why in (rounds._has_not_fallen, rounds._has_turned)]
    assert any(over) == bool(ended)
    assert entries[-1].get("stopped", "").startswith(ended)


@pytest.mark.parametrize(("stop", "trained"), [(True, 2), (False, 3)])
def test_rounds_end_early_only_where_they_may(monkeypatch, tmp_path, stop, trained):
    """The target loss never falls."""

    class Work:
        def __init__(self, run, mixer):
            pass

        def train(self, number, volumes):
            return {"round": number, "volumes": volumes, "target_loss": {"a": 1.0}, "mean_target_loss": 1.0}

        def benefit(self, number, entry):
            return {"benefit": {"a": 1.0, "b": -1.0}, "confidence": {"a": 1.0, "b": 1.0}}

    monkeypatch.setattr(rounds, "_check_layers", lambda run: None)
    monkeypatch.setattr(rounds, "_Rounds", Work)
    monkeypatch.setattr(rounds, "_finish", lambda folder, entries: entries)
    job = SimpleNamespace(rows_K=torch.tensor([40.0, 40.0], dtype=torch.float64), tasks=["a", "b"])
    entries = rounds.run_rounds(SimpleNamespace(job=job, folder=tmp_path), Ideal(rounds=2, stop=stop))
    assert len(entries) == trained
    assert ("stopped" in entries[-1]) == stop


@pytest.mark.long
def test_epochs_as_budget_make_longer_trainings_of_larger_volumes(tiny, tmp_path):
    """With the paper's own score every domain may grow, and the training grows with them."""
    more = ("mixer.budget=epochs", "mixer.m=1", "mixer.rounds=1", "steps=6", "mixer.floor=0")
    train_from_overrides(tiny(*IDEAL, *more), str(tmp_path / "run"))
    first, second = read(tmp_path / "run" / "eval.json")["rounds"]
    assert first["steps"] == 6
    total = sum(second["volumes"].values())
    assert total != 120
    assert second["steps"] == max(1, round(6 * total / 120))


@pytest.mark.long
@pytest.mark.parametrize("lora", [(), ("lora=default", "lora.r=2")])
def test_preference_losses_take_the_same_path(tiny, tmp_path, lora):
    folder = tmp_path / "run"
    train_from_overrides(tiny(*IDEAL, "objective=dpo", "mixer.rounds=1", "reference.sft_steps=3", *lora), str(folder))
    entry = read(folder / "rounds" / "0" / "benefit.json")
    assert all(abs(x) > 0 for x in entry["benefit"].values())
    assert read(folder / "eval.json")["objective"] == "dpo"


@pytest.mark.long
def test_targets_are_validation_splits_or_rows_of_their_own(tiny, tmp_path):
    rows = [{"prompt": f"c{a}{b}=", "completion": ">" if a > b else "<"} for a, b in ((12, 99), (70, 30), (55, 54))]
    file = tmp_path / "target.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = prepare(compose_settings(tiny("objective=sft", "data.target=[compare]")))
    assert job.targets == [job.data["validation"][2]]
    job = prepare(compose_settings(tiny("objective=sft", f"data.target.sums.path={file}")))
    assert [(d.task, len(d)) for d in job.targets] == [("sums", 3)]
    with pytest.raises(MixalignError, match=r"`data.target` names `compar`.*Did you mean `compare`"):
        prepare(compose_settings(tiny("objective=sft", "data.target=[compar]")))
    train_from_overrides(tiny(*IDEAL, "mixer.rounds=1", f"data.target.sums.path={file}"), str(tmp_path / "run"))
    assert {*read(tmp_path / "run" / "eval.json")["rounds"][0]["target_loss"]} == {"sums"}


def strict(path: Path):
    """What every JSON parser reads."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{path} has {word}, which is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.long
def test_a_target_loss_that_is_not_finite_ends_the_rounds(tiny, tmp_path, monkeypatch, capsys):
    """The round before is kept, and what is on disk is read again when the run was cut in its last moment."""
    real = rounds._target_losses

    def lost(job, model):
        rows = real(job, model)
        return rows if not (folder / "rounds" / "1" / "eval.json").is_file() else rows | {"reverse": float("inf")}

    folder = tmp_path / "run"
    monkeypatch.setattr(rounds, "_target_losses", lost)
    for _ in range(2):
        train_from_overrides(tiny(*IDEAL), str(folder))
        result = strict(folder / "eval.json")
        assert [entry["mean_target_loss"] is None for entry in result["rounds"]] == [False, True]
        assert result["best_round"] == 0
        assert result["rounds"][1]["stopped"] == "the loss on target rows of `reverse` is not finite after round 1"
        assert strict(folder / "rounds" / "1" / "round.json")["target_loss"]["reverse"] is None
        assert re.search(r"reverse .* n/a\n", capsys.readouterr().out)
        (folder / "eval.json").unlink()


def test_a_first_round_without_a_target_loss_is_refused(tiny, tmp_path, monkeypatch, refuse):
    monkeypatch.setattr(rounds, "_target_losses", lambda job, model: dict.fromkeys(TASKS, float("nan")))
    for _ in range(2):  # the second time from what is on disk
        message = refuse(tiny(*IDEAL), tmp_path / "run")
        assert "`helpful`, `reverse`, `compare` is not finite after round 0" in message
    assert strict(tmp_path / "run" / "rounds" / "0" / "round.json")["mean_target_loss"] is None


@pytest.mark.long
@pytest.mark.parametrize("curvature", ["ekfac", "identity"])
def test_benefits_that_are_not_finite_move_no_volume(tiny, tmp_path, monkeypatch, curvature):
    real = rounds.measure

    def broken(*args, **kwargs):
        found = real(*args, **kwargs)
        found.product_K[1] = found.product_RK[:, 1] = float("nan")
        return found

    monkeypatch.setattr(rounds, "measure", broken)
    own = (f"cache_dir={tmp_path / 'cache'}", f"influence={curvature}", "mixer.budget=epochs")
    for _ in range(2):
        train_from_overrides(tiny(*IDEAL, *own), str(tmp_path / "run"))
        (entry,) = strict(tmp_path / "run" / "eval.json")["rounds"]
        assert entry["stopped"].startswith("the benefit of `reverse` is not finite, so the volumes stay.")
        assert entry["benefit"]["reverse"] is None
        assert entry["confidence"]["reverse"] == 0.5
        assert strict(tmp_path / "run" / "rounds" / "0" / "benefit.json")["benefit"]["helpful"] is not None
        (tmp_path / "run" / "eval.json").unlink()


def test_the_table_of_rounds():
    entries = [
        {
            "round": 0,
            "volumes": {"a": 1000, "b": 50},
            "target_loss": {"a": 0.25, "c": 0.5},
            "mean_target_loss": 0.375,
            "benefit": {"a": -0.5, "b": 1.25},
            "confidence": {"a": 0.75, "b": 1.0},
        },
        {
            "round": 1,
            "volumes": {"a": 940, "b": 57},
            "target_loss": {"a": 0.125, "c": 0.5},
            "mean_target_loss": 0.3125,
            "predicted_change": {"a": -0.25, "c": 0.0625},
            "mean_predicted_change": -0.09375,
            "change": {"a": -0.125, "c": 0.0},
            "mean_change": -0.0625,
            "stopped": "because",
        },
    ]
    text = rounds_table(entries, best=1)
    assert "Benefits speak of a model that is trained to the end." in text
    for line in (r"round 1: predicted +actual", r"a +-0\.2500 +-0\.1250", r"mean +-0\.0938 +-0\.0625"):
        assert re.search(line, text)
    for cell in ("1,000", "940", "+1.2 (100%)", "-0.5 (75%)", "0.3125", "round 1 (kept)", "ended early: because"):
        assert cell in text


@pytest.mark.long
def test_a_sweep_over_m_makes_round_0_and_its_influence_once(tiny, tmp_path, monkeypatch):
    """The second run has the same bytes as one that makes them itself, in an empty cache."""
    trained, measured = [], []
    real_measure, real_train = rounds.measure, rounds.train_generalist
    monkeypatch.setattr(rounds, "measure", lambda *a, **k: measured.append(1) or real_measure(*a, **k))
    monkeypatch.setattr(rounds, "train_generalist", lambda one: trained.append(one.folder) or real_train(one))
    one, own = f"cache_dir={tmp_path}/one", f"cache_dir={tmp_path}/own"
    short = ("mixer.rounds=1", one)
    for m in (0.1, 0.3):
        train_from_overrides(tiny(*IDEAL, *short, f"mixer.m={m}"), str(tmp_path / f"m{m}"))
    assert [folder.name for folder in trained] == ["0", "1", "1"]
    assert len(measured) == 1
    train_from_overrides(tiny(*IDEAL, *short, "mixer.m=0.3", own), str(tmp_path / "alone"))
    assert len(trained) == 5
    shared, alone = (read(tmp_path / name / "eval.json") for name in ("m0.3", "alone"))
    assert shared == alone
    for file in ("rounds/0/model/model.safetensors", "rounds/0/eval.json", "rounds/0/benefit.json", "mix.jsonl"):
        assert (tmp_path / "m0.3" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()
    train_from_overrides(tiny(*IDEAL, *short, "mixer.m=0.1", "optimizer.lr=1e-3"), str(tmp_path / "rate"))
    assert len(trained) == 7  # another training is another recipe


def test_the_cost_is_that_of_all_rounds_and_the_influence_between_them(run):
    cost = read(run / "cost.json")
    assert cost["steps"] == 12
    assert [entry["round"] for entry in cost["rounds"]] == [0, 1, 2]
    assert [entry["influence"] is None for entry in cost["rounds"]] == [False, False, True]
    parts = [read(file) for file in run.glob("rounds/*/cost*.json")]
    assert len(parts) == 5
    assert cost["seconds"] == pytest.approx(sum(part["seconds"] for part in parts))
    assert read_cost(run, 4).steps == {"rounds": 12}
    assert read_cost(run, 4).seconds == pytest.approx(cost["seconds"])  # and not twice as much


def test_changes_are_told_beside_what_was_predicted(run):
    first, second, third = read(run / "eval.json")["rounds"]
    assert "change" not in first
    for before, now in ((first, second), (second, third)):
        for task in TASKS:
            assert now["change"][task] == pytest.approx(now["target_loss"][task] - before["target_loss"][task])
        beta = {task: now["volumes"][task] / before["volumes"][task] - 1 for task in TASKS}
        wanted = -sum(beta[task] * before["benefit"][task] for task in TASKS)
        assert now["mean_predicted_change"] == pytest.approx(wanted, abs=1e-6)


def test_a_change_beyond_the_loss_leaves_the_volumes(tiny, tmp_path, monkeypatch, caplog):
    """Whatever it is that lets such benefits through."""
    real = rounds.measure

    def measure(*given, **named):
        found = real(*given, **named)
        return replace(found, product_K=1e6 * found.product_K, product_RK=1e6 * found.product_RK)

    monkeypatch.setattr(rounds, "measure", measure)
    own = f"cache_dir={tmp_path}/cache"
    with caplog.at_level("INFO"):
        train_from_overrides(tiny(*IDEAL, own), str(tmp_path / "run"))
    (entry,) = read(tmp_path / "run" / "eval.json")["rounds"]
    assert "the volumes stay. Raise `influence.damping`, " in entry["stopped"]
    assert min(entry["confidence"].values()) == 0.5
    assert "influence 0: 48 rows of 6 tables, 144 passes over a row" in caplog.text
    assert "influence 0: it will take about" in caplog.text


def test_rows_by_the_length_of_a_training():
    """Three tasks of 3 passes a row, as many target tables of 1, and one more over a few rows of all six."""

    def job(steps, rows=1000, **options):
        settings = SimpleNamespace(influence=Influence(**{"samples": "auto", **options}), batch_size=6)
        tables = [range(rows)] * 3
        return SimpleNamespace(settings=settings, steps=steps, data={"train": tables}, targets=tables)

    def samples(*given, **options):
        return influence_of(job(*given, **options)).samples

    assert samples(1) == 64
    assert samples(3000) == 256
    assert samples(1, samples=7) == 7
    assert row_passes(job(300)) == (6 * 133, 12 * 133 + 6 * 34)  # 1,800
    assert samples(160, rows=50) == 256  # all rows, which are fewer


def test_a_sweep_of_rounds_trains_no_specialists(tiny):
    """They are compared by their target loss; who asks for specialists gets them."""

    def needs(*more):
        return needs_specialists(compose_settings(tiny(*more)), in_sweep=True)

    assert needs("mixer=uniform")
    assert not needs("mixer=ideal")
    assert needs("mixer=ideal", "specialists.train=always")
