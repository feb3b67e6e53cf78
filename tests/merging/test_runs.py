"""Merges of models and of a run's specialists; the weights that a search takes."""

import json
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixalign.config.settings import MergeSettings, names_a_run
from mixalign.errors import MixalignError
from mixalign.frozen.specialists import find_specialists
from mixalign.merging import runs as merge
from mixalign.merging.methods import Merge
from mixalign.merging.search import Search, choose
from mixalign.merging.write import merge_folders
from mixalign.reporting.read.labels import find_runs
from mixalign.verbs import evaluate, report


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run of AMA-S, which may get neighbours."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def call(in_process):
    """Runs `mixalign merge` in this process; gives the exit code, stdout and stderr."""
    return partial(in_process, "merge")


def weights(folder):
    return load_file(folder / "model.safetensors")


def specialists(run):
    """Folders of the run's specialists, in the order of its tasks."""
    return [model.place / "model" for model in find_specialists(*merge._open_run(run)).values()]


class TestSpecialists:
    def test_their_merge_is_a_run_beside_the_run(self, run, call):
        code, out, err = call("--specialists", run, "--method", "linear")
        assert (code, err) == (0, "")
        folder = run.with_name("run_merge_linear")
        assert f"run folder: {folder}" in out
        assert sorted(path.name for path in run.parent.iterdir()) == ["run", "run_merge_linear"]
        found, wanted = weights(folder / "model"), list(map(weights, specialists(run)))
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, sum(model[name] for model in wanted) / 3, rtol=0, atol=1e-6)

    def test_it_is_evaluated_as_a_run_and_can_be_again(self, run):
        merge.run([], Merge("ties"), specialists=run)
        folder = run.with_name("run_merge_ties")
        result, of_run = (json.loads((f / "eval.json").read_text()) for f in (folder, run))
        assert result["mixer"] == "merge_ties"
        assert result["tasks"].keys() == of_run["tasks"].keys()
        assert {r["specialist_loss"] for r in result["tasks"].values()} == {
            r["specialist_loss"] for r in of_run["tasks"].values()
        }
        evaluate.run(folder, "test")
        again = json.loads((folder / "eval_test.json").read_text())
        assert again["mean"] == pytest.approx(result["mean"], abs=1e-6)

    def test_it_is_one_more_line_of_the_report(self, run, capsys):
        merge.run([], Merge("task_arithmetic", scale=2.0), specialists=run)
        capsys.readouterr()
        report.run([run.parent])
        out = capsys.readouterr().out
        assert "merge_task_arithmetic" in out
        assert "ama_s" in out
        assert (run.parent / "report.html").is_file()
        config = yaml.safe_load((run.with_name("run_merge_task_arithmetic") / "config.yaml").read_text())
        assert config["mixer"]["name"] == "merge_task_arithmetic"
        assert (config["mixer"]["scale"], config["mixer"]["weights"]) == (2.0, pytest.approx([1 / 3] * 3))

    @pytest.mark.long
    def test_adapters_merge_into_a_full_model(self, train):
        run = train("lora=default", "lora.r=2", "optimizer.lr=0.05", "mixer=uniform", "specialists.train=always")
        merge.run([], Merge("task_arithmetic", (0, 1, 0)), specialists=run)
        folder = run.with_name("run_merge_task_arithmetic") / "model"
        assert not (folder / "adapter_config.json").exists()
        AutoTokenizer.from_pretrained(folder)
        merged = AutoModelForCausalLM.from_pretrained(folder)
        second = specialists(run)[1]
        base = json.loads((second / "adapter_config.json").read_text())["base_model_name_or_path"]
        wanted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), second).merge_and_unload()
        for name, tensor in wanted.state_dict().items():
            torch.testing.assert_close(merged.state_dict()[name], tensor, rtol=0, atol=1e-6)

    @pytest.mark.long
    def test_sft_without_a_reference_in_the_cache(self, train):
        """The base is the model as loaded, which no folder holds."""
        run = train("objective=sft", "mixer=uniform", "specialists.train=always")
        merge.run([], Merge("ties"), specialists=run)
        assert (run.with_name("run_merge_ties") / "eval.json").is_file()

    @pytest.mark.parametrize("kind", ["missing", "slerp", "taken"])
    def test_refusals_leave_nothing_behind(self, run, tmp_path, kind):
        method = "slerp" if kind == "slerp" else "linear"
        says = {"missing": "The specialist of `", "slerp": "exactly 2 models, but got 3", "taken": "already exists"}
        if kind == "missing":
            config = yaml.safe_load((run / "config.yaml").read_text())
            config["specialists"]["seed"] = 77
            (run / "config.yaml").write_text(yaml.safe_dump(config))
        if kind == "taken":
            run.with_name("run_merge_linear").mkdir()
            (run.with_name("run_merge_linear") / "mine").write_text("")
        before = sorted(run.parent.iterdir())
        with pytest.raises(MixalignError) as caught:
            merge.run([], Merge(method), specialists=run)
        assert says[kind] in str(caught.value)
        assert sorted(run.parent.iterdir()) == before


class TestAtTheEndOfTraining:
    def job(self, run, *methods, seed=0, **settings):
        job, reference = merge._open_run(run)
        wanted = MergeSettings(**{"methods": methods, "scale": 0.5, "density": 0.4} | settings)
        return replace(job, settings=replace(job.settings, merge=wanted, seed=seed)), reference

    def test_every_method_gets_a_run(self, run, capsys):
        job, reference = self.job(run, "linear", "ties")
        merge.run_merges(job, reference, run)
        assert sorted(p.name for p in run.parent.iterdir()) == ["run", "run_merge_linear", "run_merge_ties"]
        config = yaml.safe_load((run.with_name("run_merge_ties") / "config.yaml").read_text())
        assert (config["mixer"]["scale"], config["mixer"]["density"]) == (0.5, 0.4)
        assert capsys.readouterr().out.count("run folder: ") == 2

    def test_a_run_that_goes_on_keeps_them(self, run):
        job, reference = self.job(run, "linear")
        merge.run_merges(job, reference, run)
        path = run.with_name("run_merge_linear") / "eval.json"
        before = path.stat().st_mtime_ns
        merge.run_merges(job, reference, run)
        assert path.stat().st_mtime_ns == before

    def test_mixers_of_a_sweep_share_them(self, run):
        """The specialists are the same, so the merge is: one folder, unless its settings or DARE's seed differ."""
        for number, seed in enumerate([0, 0, 1]):
            job, reference = self.job(run, "ties", seed=seed)
            merge.run_merges(job, reference, run.with_name(f"{number}_x"))
        assert sorted(p.name for p in run.parent.iterdir()) == ["0_x_merge_ties", "2_x_merge_ties", "run"]

    def test_other_settings_do_not_replace_them(self, run):
        job, reference = self.job(run, "ties")
        merge.run_merges(job, reference, run)
        job, reference = self.job(run, "ties", density=0.1)
        with pytest.raises(MixalignError, match="run_merge_ties already exists"):
            merge.run_merges(job, reference, run)

    def test_weights_may_be_searched(self, run, capsys):
        job, reference = self.job(run, "linear", trials=2)
        merge.run_merges(job, reference, run)
        _, table = capsys.readouterr().out.split("Merges on the validation rows: excess in nats\n")
        assert [len(line.split()) >= 7 for line in table.splitlines()[2:4]] == [True, True]
        assert table.count("<- taken") == 1

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({"methods": ["tie"]}, "Did you mean `ties`?"),
            ({"methods": ["linear", "slerp"]}, "exactly 2 models, but got 3"),
            ({"methods": ["linear"], "weights": [1, 2]}, "2 weights for 3 models"),
            ({"methods": ["linear"], "weights": [1, 2, 3], "trials": 5}, "`merge.trials` searches weights"),
        ],
    )
    def test_what_cannot_be_merged_is_known_before(self, run, settings, says):
        job, _ = self.job(run, **settings)
        with pytest.raises(MixalignError) as caught:
            merge.merges_of(job.settings, 3)
        assert says in str(caught.value)

    def test_a_run_of_a_version_without_the_key_has_nothing_to_merge(self, run):
        config = yaml.safe_load((run / "config.yaml").read_text())
        del config["merge"]
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        job, _ = merge._open_run(run)
        assert merge.merges_of(job.settings, 3) == []


class TestSearch:
    def test_two_models_are_tried_on_a_grid(self):
        found = Search(trials=5).candidates(Merge("linear"), 2)
        assert [how.weights for how in found] == [(1, 0), (0.75, 0.25), (0.5, 0.5), (0.25, 0.75), (0, 1)]

    def test_more_models_are_tried_at_equal_and_drawn_weights(self):
        found = Search(trials=4, seed=1).candidates(Merge("linear"), 3)
        assert found[0].weights == pytest.approx((1 / 3,) * 3)
        assert all(sum(how.weights) == pytest.approx(1) and min(how.weights) > 0 for how in found)
        assert len({how.weights for how in found}) == 4
        assert found == Search(trials=4, seed=1).candidates(Merge("linear"), 3)
        assert found != Search(trials=4, seed=2).candidates(Merge("linear"), 3)

    def test_scales_multiply_the_trials(self):
        search = Search(trials=3, scales=(0.5, 1.0))
        assert [how.scale for how in search.candidates(Merge("ties"), 2)] == [0.5, 1.0] * 3
        assert [how.scale for how in Search(trials=2).candidates(Merge("ties", scale=0.7), 2)] == [0.7] * 2
        with pytest.raises(MixalignError, match="`linear` has no scale"):
            search.candidates(Merge("linear"), 2)

    @pytest.mark.parametrize(("target", "taken"), [("worst", (0.5, 0.5)), ("mean", (1.0, 0.0))])
    def test_the_lowest_worst_or_mean_excess_is_taken(self, target, taken):
        def result(worst, mean):
            return {"worst": {"excess": {"task": "a", "value": worst}}, "mean": {"excess": mean}}

        grid = [replace(Merge(), weights=w) for w in ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0))]
        tried = list(zip(grid, [result(0.9, 0.1), result(0.3, 0.2), result(float("nan"), float("nan"))], strict=True))
        best, table = choose(tried, target)
        assert best.weights == taken
        assert table.count("<- taken") == 1
        rows = [line.split() for line in table.splitlines()]
        assert ["0.300", "0.200", "1", "0.500", "0.500", "a", *(["<-", "taken"] if target == "worst" else [])] in rows

    @pytest.fixture
    def good_and_bad(self, run, tmp_path):
        """A trained model, and one as far from the reference in the opposite direction, which prefers what is worse."""
        good = shutil.copytree(run / "model", tmp_path / "good")
        with merge._base_folder(*merge._open_run(run)) as base:
            merge_folders([good], Merge("task_arithmetic", scale=-30), tmp_path / "bad", base)
        return good, tmp_path / "bad"

    def test_it_finds_the_model_that_was_trained(self, good_and_bad, run, call, tmp_path):
        good, bad = good_and_bad
        code, out, err = call(bad, good, "--search", run, "--trials", 3, "--out", tmp_path / "out")
        assert (code, err) == (0, "")
        cells = [line.split() for line in out.splitlines()]
        assert sum(len(row) > 5 and row[5] in ("helpful", "reverse", "compare") for row in cells) == 3  # the worst task
        assert next(line for line in out.splitlines() if "<- taken" in line).split()[3:5] == ["0.000", "1.000"]
        found, wanted = weights(tmp_path / "out"), weights(good)
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["bad", "good", "out", "run"]

    def test_of_task_vectors_it_takes_the_runs_reference_and_a_scale(self, good_and_bad, run, call, tmp_path):
        arguments = ("--method", "task_arithmetic", "--search", run, "--trials", 1, "--scales=-1,1")
        code, out, err = call(good_and_bad[0], *arguments, "--out", tmp_path / "out")
        assert (code, err) == (0, "")
        assert next(line for line in out.splitlines() if "<- taken" in line).split()[2] == "1"


class TestCommandLine:
    def test_models_by_hand(self, run, call, tmp_path):
        a, b, _ = specialists(run)
        code, out, err = call(a.parent, b, "--weights", "1,3", "--out", tmp_path / "out")
        assert (code, out, err) == (0, f"merge: {tmp_path / 'out'}\n", "")
        found, wanted = weights(tmp_path / "out"), [weights(p) for p in (a, b)]
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, 0.25 * wanted[0][name] + 0.75 * wanted[1][name], rtol=0, atol=1e-6)

    def test_a_run_folder_means_its_model(self, run, call, tmp_path):
        assert call(run, "--out", tmp_path / "out")[0] == 0
        assert weights(tmp_path / "out").keys() == weights(run / "model").keys()

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ((), "Name either the models to merge, or one run by --specialists"),
            (("RUN", "--specialists", "RUN"), "Name either the models"),
            (("RUN",), "Add --out FOLDER"),
            (("RUN", "--search", "RUN", "--weights", "1"), "--search finds weights"),
            (("RUN", "RUN", "--method", "ties", "--out", "OUT"), "Give it: --base FOLDER"),
            (("--specialists", "RUN", "--base", "RUN"), "no --base, same RUN"),
            (("--specialists", "OUT"), "is no run folder: it has no config.yaml"),
            (
                ("RUN", "--search", "RUN", "--trials", "0", "--out", "OUT"),
                "`merge.trials` is 0, but must be a whole number from 1 on",
            ),
        ],
    )
    def test_refusals_are_one_line(self, run, call, tmp_path, arguments, says):
        places = {"RUN": run, "OUT": tmp_path / "out"}
        code, _, err = call(*(places.get(word, word) for word in arguments))
        assert code == 1
        assert err.startswith("error: ")
        assert says in err
        assert err.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_training_ends_with_the_merges_that_it_is_asked_for(train, tmp_path):
    """Each is a run beside it, which a report finds, and which is not made twice."""
    run = train("mixer=uniform", "merge.methods=[linear,ties]")
    found = {r.mixer: r for r in find_runs([tmp_path], names_a_run)}
    assert {*found} == {"uniform", "merge_linear", "merge_ties"}
    assert all(not r.skipped and "excess" in next(iter(r.eval["tasks"].values())) for r in found.values())
    before = {r.path: (r.path / "eval.json").stat().st_mtime_ns for r in found.values()}
    train("mixer=uniform", "merge.methods=[linear,ties]")  # finished already
    assert {path: (path / "eval.json").stat().st_mtime_ns for path in before} == before
    assert run in before
