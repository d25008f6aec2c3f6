"""Pruning of small learners, its settings by name (no tests here)."""

from dataclasses import fields

from metalearn_tut.saliency import Criterion, Rounds, anp_prune


def prune(learner, sampler, schedule, retrain=None, *, note=None, **settings):
    """``anp_prune`` on two tasks a round, quietly; settings of the criterion as they come."""
    settings = {"n_tasks": 2, "progress": False, **settings}
    own = {f.name: settings.pop(f.name) for f in fields(Criterion) if f.name in settings}
    return anp_prune(
        learner, sampler, Rounds(schedule, retrain, note), Criterion(**own), **settings
    )
