"""What a run asks of its settings together, its tasks and its folder, refused before anything is trained."""

from pathlib import Path
from typing import Any

from mixalign.config.parse import with_later_keys
from mixalign.config.settings import RunSettings
from mixalign.errors import MixalignError
from mixalign.fingerprint import differences
from mixalign.frozen.batch_sizes import micro_batch_size
from mixalign.frozen.cache import refuse_foreign
from mixalign.frozen.folds import fold_of
from mixalign.frozen.policy import reference_steps
from mixalign.frozen.specialists import specialist_steps
from mixalign.jobs.job import Job
from mixalign.mixers.base import Rule, reads_excess
from mixalign.runs.folder import read_plain
from mixalign.together.agree import decide
from mixalign.together.trainer import trainer_options
from mixalign.training.checkpoints import checkpoint_step, is_checkpoint, who_stopped
from mixalign.training.summary import SUMMARY_OF_EXCESS

__all__ = ["check_checkpoint", "check_run", "check_together", "needs_specialists"]


def check_together(settings: RunSettings) -> None:
    """Refuses settings of which each may be, but not with the others.

    Raises:
        MixalignError: naming them.
    """
    mixer, lora = settings.mixer, settings.lora
    _check_adapter(settings)
    if lora is not None and lora.lora_dropout and settings.objective.form != "supervised":
        raise MixalignError(
            f"`lora.lora_dropout` is {lora.lora_dropout}, but `objective={settings.objective_name}` compares scores of "
            "two answers or two models, which dropout would make noisy, so it is off. Set it to 0, or take "
            "objective=sft."
        )
    if (mixer.cadence == "round" or mixer.final) and settings.resume:
        raise MixalignError(
            "A run of several trainings goes on by itself: leave `resume` out, and give the same `run_dir`."
        )
    if mixer.cadence == "round" and settings.reference.mode != "cached":
        raise MixalignError(
            f"`reference.mode={settings.reference.mode}`, but `mixer={settings.mixer_name}` reads cached scores "
            "between its trainings. Set it to cached."
        )
    if settings.merge.methods and settings.specialists.folds > 1:
        raise MixalignError(
            f"`merge.methods` merges one specialist a task, and `specialists.folds` is {settings.specialists.folds}: "
            "none of those has seen all rows of its task. Set it to 1, or leave merges out."
        )
    if settings.resume is not None and not is_checkpoint(settings.resume):
        raise MixalignError(
            f"`resume={settings.resume}` is no checkpoint. Leave it out: a run goes on by itself when it gets the same "
            "`run_dir`."
        )


def _check_adapter(settings: RunSettings) -> None:
    """Refuses what an adapter, or weights in 4 bits, cannot do; a merge would say so behind all trainings."""
    if settings.lora is not None and settings.lora.use_dora:
        if settings.merge.methods:
            raise MixalignError(
                "`lora.use_dora` and `merge.methods` do not go together: the change of DoRA is not `scale * B A`, "
                "which is what merges average. Leave one of them out."
            )
        if settings.mixer.cadence == "round":
            raise MixalignError(
                f"`lora.use_dora` and `mixer={settings.mixer_name}` do not go together: DoRA reads its factors without "
                "calling their layers, and the influence is measured where layers are called. Set use_dora to false."
            )
    if not getattr(settings.model, "load_in_4bit", False):
        return
    if settings.lora is None:
        raise MixalignError("`model.load_in_4bit` needs an adapter: weights in 4 bits stay. Set `lora=default`.")
    if settings.objective.uses_reference and settings.reference.sft_steps != 0:
        raise MixalignError(
            "`model.load_in_4bit` leaves the base as it is, so there is no SFT of it: set `reference.sft_steps=0`."
        )


def needs_specialists(settings: RunSettings, in_sweep: bool) -> bool:
    """Whether missing specialists are to be trained.

    Runs in rounds are compared by their target loss: in a sweep they show excess where other rules have had the
    specialists trained, and train none themselves.

    Args:
        in_sweep: whether other runs will be compared with this one.

    Raises:
        MixalignError: when they are needed, and may not be trained.
    """
    policy, reason = settings.specialists.train, _reads_specialists_by(settings)
    if reason and policy == "never" and not settings.specialists.dir:
        raise MixalignError(
            f"`{reason}` needs specialists, but `specialists.train=never`. Set it to auto, or point `specialists.dir` "
            "at trained ones."
        )
    compared = in_sweep and settings.mixer.cadence != "round"
    return policy == "always" or (policy == "auto" and (bool(reason) or compared))


def check_run(job: Job, mixer: Rule, train_specialists: bool) -> None:
    """Refuses a run that could not go to its end.

    Args:
        mixer: told the run's tasks and steps.
        train_specialists: whether missing ones are to be trained.

    Raises:
        MixalignError: naming the setting.
    """
    from mixalign.runs.trackers import check_packages  # these load Lightning, which a plan need not wait for
    from mixalign.training.callbacks.wandb_board import log_in

    settings = job.settings
    if mixer.cadence != "round":
        _check_batch(job, mixer)
    mixer.init(job.rows_K)
    _check_trainer(job)
    reference_steps(job)
    if train_specialists:
        _check_trainable(job)
    if job.objective.uses_reference and settings.reference.mode == "adapter_off" and settings.lora is None:
        raise MixalignError("`reference.mode=adapter_off` needs adapters: set `lora=default`, or use mode cached.")
    if mixer.cadence == "round":
        _check_curvature(job)
    if settings.specialists.dir:
        _check_specialists(job, mixer)
    check_packages(settings.logger)
    for node in settings.logger.values():
        if str(node.get("_target_")).endswith("WandbLogger") and not node.get("offline"):
            decide(log_in)


def _reads_specialists_by(settings: RunSettings) -> str:
    """The setting that makes a run read its specialists; empty when none does."""
    if settings.merge.methods:
        return "merge.methods"
    if settings.export == "best_gap":
        return "export=best_gap"
    if _reads_specialists(settings.mixer):
        return f"mixer={settings.mixer_name}"
    watching = (name for name, node in settings.callbacks.items() if node.get("monitor") in SUMMARY_OF_EXCESS)
    return next((f"callbacks.{name}.monitor" for name in watching), "")


def _reads_specialists(mixer: Rule) -> bool:
    return reads_excess(mixer) and mixer.excess_over == "specialists"


def _check_batch(job: Job, mixer: Rule) -> None:
    """Refuses a batch that is too small for a mixer which wants every task in it."""
    settings, num_tasks = job.settings, len(job.tasks)
    stratified = (settings.composition or mixer.composition) == "stratified"
    if mixer.needs and stratified and settings.batch_size < num_tasks:
        raise MixalignError(
            f"`mixer={settings.mixer_name}` wants every task in every batch, but `batch_size` is "
            f"{settings.batch_size} and there are {num_tasks} tasks. Raise batch_size (micro_batch_size saves memory), "
            "or take mixer=ama_s."
        )


def _check_trainable(job: Job) -> None:
    """Refuses specialists that cannot be trained as `specialists` has it."""
    settings = job.settings.specialists
    for number, table in enumerate(job.data["train"]):
        specialist_steps(job, number)
        fold_of(table, settings.folds)
        if settings.export == "best" and not len(job.data["validation"][number]):
            raise MixalignError(
                f"`specialists.export=best` looks at validation rows, and task `{table.task}` has none. Give it some "
                "(`data.validation_fraction`), or set it to last."
            )


def _check_trainer(job: Job) -> None:
    """Makes the trainer that the run will have, for Lightning to refuse what it does not take."""
    from mixalign.training.fit import Fit, make_trainer

    precision = "32-true" if job.precision == "auto" else job.precision  # it depends on the model, not there yet
    options, batch_size = trainer_options(job.settings, precision), job.settings.batch_size
    rows = micro_batch_size(job, batch_size)
    make_trainer(Fit(job.steps, batch_size, rows, job.val_every, options), job.cache)


def _check_curvature(job: Job) -> None:
    influence = job.settings.influence
    check: Any = getattr(job.target_objective, "check_curved", None)
    if check and influence.is_curved and influence.draws_labels:
        check()


def _check_specialists(job: Job, mixer: Rule) -> None:
    settings = job.settings.specialists
    for task in job.tasks:
        place = Path(str(settings.dir)) / task
        refuse_foreign(place)
        if _reads_specialists(mixer) and settings.train == "never" and settings.folds == 1 and not place.exists():
            raise MixalignError(
                f"`mixer={job.settings.mixer_name}` needs specialists, but there is no {place}, and "
                "`specialists.train` is never. Set it to auto, or `specialists.dir` to a folder with one for each task."
            )


def check_checkpoint(job: Job, path: Path) -> None:
    """Compares the checkpoint of another run with this one, by that run's configuration and by its steps.

    Raises:
        MixalignError: when that run trained something else, or left this one nothing to do.
    """
    folder = path.resolve().parent.parent
    if (folder / "config.yaml").is_file():
        saved, wanted = _what_it_trains(with_later_keys(read_plain(folder))), _what_it_trains(dict(job.settings.plain))
        if wrong := differences(saved, wanted):
            raise MixalignError(
                f"`resume={path}` is of a run that trains something else ({'; '.join(wrong)}). Restore these settings "
                "or leave `resume` out."
            )
    if (step := checkpoint_step(path)) >= job.steps:
        raise MixalignError(
            f"`resume={path}` has made {step} steps, and `steps` is {job.steps}, which counts from the start: nothing "
            f"would be trained. Set `steps` to more than {step}."
        )
    if job.settings.callbacks and (who := who_stopped(path)):
        raise MixalignError(
            f"`resume={path}` is of a training that was ended by {who}, and would be again. Leave that callback out, "
            "or give a checkpoint from before."
        )


def _what_it_trains(plain: dict[str, Any]) -> dict[str, Any]:
    mixer = {key: value for key, value in plain["mixer"].items() if key in ("_target_", "name")}
    nodes = {name: dict(plain[name] or {}) for name in ("model", "lora", "objective")}
    nodes["model"].pop("recommended", None)  # of runs of older versions
    if plain["data"]["root"]:  # whose files are tasks beside those named; `check_resumed` compares them all
        return nodes | {"mixer": mixer}
    tasks = sorted(str(name) for name, entry in (plain["data"]["tasks"] or {}).items() if entry is not None)
    return nodes | {"mixer": mixer, "data.tasks": tasks}
