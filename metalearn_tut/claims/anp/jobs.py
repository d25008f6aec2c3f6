"""The jobs of the ANP studies: learners pruned in rounds, by filters, or before meta-training."""

from __future__ import annotations

from pathlib import Path

from metalearn_tut import saliency
from metalearn_tut.claims.classifier import begin_with, classifier
from metalearn_tut.claims.learners import answers_to, build, deployed_cost, trained
from metalearn_tut.claims.study import Config, Values
from metalearn_tut.claims.tasks import TasksFrom, sampler
from metalearn_tut.learners.maml import MAML
from metalearn_tut.training.loop import meta_train

SCORING, LATER = 10**8, 10**6  # first tasks to score by, and to train on after a round


def pruned(config: Config, folder: Path) -> Values:
    """Prune a dense learner in rounds, with the same masked training after each, and test it.

    Parameters
    ----------
    config : dict
        ``learner`` (see :func:`~metalearn_tut.claims.learners.trained`); ``schedule``, the share
        removed in each round; ``criterion``, arguments of
        :class:`~metalearn_tut.saliency.Criterion`, or None to remove nothing; ``retrain``, with
        the ``steps`` of each round and other arguments of
        :func:`~metalearn_tut.training.meta_train`; ``tests``, and ``along``: those after each
        round, by the share removed so far.
    folder : Path
        Keeps checkpoints.
    """
    learner, along = trained(config["learner"], folder), config.get("along", {})
    tasks, retraining = sampler(config["learner"]["tasks"]), dict(config["retrain"])
    steps = retraining.pop("steps")

    def retrain(learner: MAML, number: int) -> Values:
        options = {"out": folder / f"round-{number}", "resume": True, "progress": False}
        later = TasksFrom(tasks, LATER * number)
        meta_train(learner, later, steps=steps[number - 1], **retraining, **options)
        share = f"{sum(config['schedule'][:number]):.2f}"
        return answers_to(learner, {share: along[share]} if share in along else {})

    how = config["criterion"] or {"method": "magnitude", "compensate": False}
    schedule = config["schedule"] if config["criterion"] else [0.0] * len(steps)
    history = saliency.anp_prune(
        learner,
        TasksFrom(tasks, SCORING),
        saliency.Rounds(schedule, retrain),
        saliency.Criterion(**how),
        out=folder / "rounds",
        resume=True,
        progress=False,
    ).history
    values = {n: kept for r in history for n, kept in r["retrained"].items()}
    return {**values, "kept": history[-1]["kept"], **_tested(learner, config)}


def filters(config: Config, folder: Path) -> Values:
    """Remove whole filters of a dense learner by ANP's score, train what is left, and test it.

    ``keep`` is the share of filters that stay, ``retrain`` as for :func:`pruned`: its steps are
    taken together.
    """
    learner, tasks = trained(config["learner"], folder), sampler(config["learner"]["tasks"])
    scores, _ = saliency.scores_of(learner, TasksFrom(tasks, SCORING).tasks(range(20)), "anp")
    narrow = MAML(
        saliency.remove_filters(
            learner.model, saliency.best_filters(learner.model, scores, config["keep"])
        ),
        **{n: v for n, v in config["learner"]["algorithm"].items() if n != "name"},
    )
    for name, rate in learner.learned_rates.items():
        narrow.learned_rates[name].data.copy_(rate)
    retraining = {**config["retrain"], "steps": sum(config["retrain"]["steps"])}
    options = {"out": folder / "retrained", "resume": True, "progress": False}
    meta_train(narrow, TasksFrom(tasks, LATER), **retraining, **options)
    return _tested(narrow, config)


def before(config: Config, folder: Path) -> Values:
    """Prune an ordinary classifier, then meta-train what is left as long as the other arms in all.

    ``ordinary`` is what :func:`~metalearn_tut.claims.classifier.classifier` takes; the score is
    that of layer-wise OBS at its weights, and the weights that stay compensate, as in ANP.
    """
    learner: MAML = build(config["learner"])
    begin_with(learner.model, classifier(config["ordinary"], folder))
    tasks = sampler(config["learner"]["tasks"])
    criterion = saliency.Criterion(**config["criterion"])
    saliency.anp_prune(
        learner, TasksFrom(tasks, SCORING), config["schedule"], criterion, progress=False
    )
    training = dict(config["learner"]["training"])
    training["steps"] += sum(config["retrain"]["steps"])
    options = {"out": folder / "training", "resume": True, "progress": False}
    meta_train(learner, tasks, **training, **options)
    return _tested(learner, config)


def _tested(learner: MAML, config: Config) -> Values:
    tests = config["tests"]
    first = next(iter(tests.values()))
    return {**answers_to(learner, tests), "cost": deployed_cost(learner, first)}
