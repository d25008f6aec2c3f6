"""Three methods on the same tasks, and how much they differ, task by task."""

from metalearn_tut import ProtoNet, Reptile, evaluate, meta_train, models, tasks
from metalearn_tut.evaluation import paired_difference
from metalearn_tut.learners import anil

train, test = (tasks.glyphs(part).sampler(5, 1, 5, seed=1) for part in ("train", "test"))
results = {}
inner = {anil: (0.4, 2), Reptile: (0.1, 3), ProtoNet: ()}  # step size and steps
for method, options in inner.items():
    learner = method(models.Conv4(1, ways=5, width=8, norm="support"), *options)
    meta_train(learner, train, steps=40, outer_lr=1e-2)
    results[method.__name__] = evaluate(learner, test, n_tasks=100)
    print(method.__name__, results[method.__name__])
mean, half = paired_difference(results["ProtoNet"], results["anil"])
print(f"ProtoNet - anil: {mean:.3f} ± {half:.3f}")
