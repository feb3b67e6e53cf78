"""What of a run's settings deserves a second look before it trains: it may be meant, so nothing is refused."""

from mixalign.frozen.policy import reference_steps
from mixalign.frozen.specialists import specialist_steps
from mixalign.jobs.job import Job

__all__ = ["warm_up_advice"]

LONG = 0.5  # share of a training
SHOWN = 3  # trainings of as many steps that are named


def warm_up_advice(job: Job, train_specialists: bool) -> list[str]:
    """Names the trainings that are mostly warm-up: at low learning rates they learn little or nothing.

    Args:
        train_specialists: whether missing ones are to be trained.
    """
    optimizer = job.settings.optimizer
    trainings = {"the generalist": job.steps, "the reference policy": reference_steps(job)}
    for number in range(len(job.tasks)) if train_specialists else ():
        trainings[f"the specialist of `{job.tasks[number]}`"] = specialist_steps(job, number)
    alike: dict[str, list[str]] = {}
    for who, steps in trainings.items():
        warm = min(steps, optimizer.warm_steps(steps)) if steps else 0
        if warm > LONG * steps:
            alike.setdefault(f"{warm:g} of {steps} steps", []).append(who)
    mostly = [f"{share} of {_named(who)}" for share, who in alike.items()]
    if not mostly:
        return []
    return [
        f"Inside the warm-up are {', '.join(mostly)}: little is learned there. Set `optimizer.warmup_steps` to a share "
        "of the steps, such as 0.1, or train for more steps."
    ]


def _named(trainings: list[str]) -> str:
    more = f" and {len(trainings) - SHOWN} more" if len(trainings) > SHOWN else ""
    return ", ".join(trainings[:SHOWN]) + more
