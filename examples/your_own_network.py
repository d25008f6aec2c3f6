"""Meta-learn any PyTorch network: here one for vectors of numbers, with three classes a task."""

from torch import nn, randn

from metalearn_tut import MAML, evaluate, meta_train, tasks

x, y = randn(1200, 16) + randn(60, 16).repeat_interleave(20, 0), [i // 20 for i in range(1200)]
train, validation, test = tasks.from_arrays(x, y).split()
network = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 3))
learner = MAML(network, inner_lr=0.1, inner_steps=3)
meta_train(learner, train.sampler(ways=3, shots=1, queries=5), steps=200)
print(evaluate(learner, test.sampler(ways=3, shots=1, queries=15), n_tasks=100))
