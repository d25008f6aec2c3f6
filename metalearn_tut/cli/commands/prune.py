"""What ``metalearn-tut prune`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metalearn_tut import runs, saliency
from metalearn_tut.cli.checks import check_new_run, check_positive, check_root, device_of
from metalearn_tut.cli.commands.shared import path_of, set_threads
from metalearn_tut.cli.options import Prune
from metalearn_tut.evaluation import cost
from metalearn_tut.files.resume import holds_a_run
from metalearn_tut.learners.inner_loop import InnerLoopLearner
from metalearn_tut.learners.learner import Learner
from metalearn_tut.learners.state import state_of
from metalearn_tut.saliency.masks import Masks
from metalearn_tut.tasks import TaskSampler
from metalearn_tut.training import checkpoint
from metalearn_tut.training.loop import meta_train


def prune(o: Prune, arguments: Sequence[str]) -> None:
    """Prune a trained learner in rounds, train it after each, write what is left."""
    set_threads(o.threads)
    _check_out(o)
    check_positive("--step", o.step)
    check_positive("--outer-lr", o.outer_lr)
    config, learner = _prunable(o)
    check_root(config["data"].get("name"), o.root)
    source = runs.build_source(config["data"], "train", o.root)
    training = {n: getattr(o, n) for n in ("steps", "tasks_per_step", "outer_lr")}
    pruning = {"method": o.score, "allocation": o.allocation, "seed": o.seed, "n_tasks": o.tasks}
    pruning["spare"] = o.spare or []
    now = saliency.kept_fraction(saliency.full_masks(learner))
    schedule = saliency.schedule_to(o.keep, o.step, now)

    def sampler(number: int) -> TaskSampler:
        return source.sampler(**{**config["tasks"], "seed": o.seed + number})

    def retrain(learner: Learner, number: int) -> None:
        folder = o.out / f"trained_{number:02d}"
        meta_train(learner, sampler(number), out=folder, resume=True, config=config, **training)

    note = {"training": training, "weights": state_of(learner)}
    masks, _ = saliency.anp_prune(
        learner,
        sampler(0),
        saliency.Rounds(schedule, retrain if o.steps else None, note),
        saliency.Criterion(**pruning),
        out=o.out / "rounds",
        resume=o.resume,
    )
    file = o.out / checkpoint.PRUNED
    pruned = {**config, "pruning": {**pruning, "schedule": schedule, "training": training}}
    saliency.save_sparse(file, learner, config=pruned)
    print(_outcome(file, learner, source.images.shape[1:], masks))


def _check_out(o: Prune) -> None:
    check_new_run(o.out, checkpoint.BEST, checkpoint.LAST)
    if (o.out / checkpoint.PRUNED).exists() and not o.resume:
        raise holds_a_run(o.out)


def _prunable(o: Prune) -> tuple[dict[str, Any], InnerLoopLearner]:
    """The configuration and the learner of a run that masks can prune and training go on with."""
    path = path_of(o.run)
    config, learner = runs.load_config(path), runs.load_learner(path, device_of(o.device))
    if missing := sorted({"data", "tasks"} - config.keys()):
        raise ValueError(f"{path} does not say what {missing[0]} it was trained with")
    if not isinstance(learner, InnerLoopLearner):
        raise ValueError(f"{path} is a {type(learner).__name__}, which is not pruned by masks")
    return config, learner


def _outcome(file: Path, learner: Learner, shape: Sequence[int], masks: Masks) -> str:
    model = learner.model
    return (
        f"{file}: {cost.parameters(model, masks):,} of {cost.parameters(model):,} parameters, "
        f"{cost.macs(model, shape, masks):,} of {cost.macs(model, shape):,} multiply-adds, "
        f"{file.stat().st_size:,} bytes"
    )
