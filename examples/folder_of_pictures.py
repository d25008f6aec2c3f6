"""Learn from a folder with one folder of pictures per class: its path is the argument."""

import sys

from metalearn_tut import MAML, evaluate, meta_train, models, tasks

train, validation, test = tasks.image_folder(sys.argv[1], size=32).split()
network = models.Conv4(3, ways=2, width=8, norm="support", image_size=32)
learner = MAML(network, inner_lr=0.4, inner_steps=2)
meta_train(
    learner,
    train.sampler(ways=2, shots=1, queries=3),
    steps=30,
    validation=validation.sampler(ways=2, shots=1, queries=3),
    out="runs/pictures",
)
print(evaluate(learner, test.sampler(ways=2, shots=1, queries=3), n_tasks=50))
