"""Half of the training tasks are mislabeled: leave out the harder half of each step's tasks."""

import torch

from metalearn_tut import evaluate, meta_train, pretrained, tasks
from metalearn_tut.rank_losses import RankedRange

train, test = (tasks.glyphs(part).sampler(ways=5, shots=1, queries=5) for part in ("train", "test"))
noisy = tasks.NoisyTasks(train, rate=0.5)
for name, rule in ("mean", torch.mean), ("rank", RankedRange.fractions(drop_hardest=0.5)):
    learner = pretrained.load("glyphs_5way_1shot_small")  # it was trained on clean tasks
    meta_train(learner, noisy, steps=20, tasks_per_step=8, outer_lr=1e-2, aggregate=rule)
    print(name, evaluate(learner, test, n_tasks=100))
