"""From a PyTorch dataset of (image, label) pairs, such as torchvision's, to few-shot tasks."""

import torch
from torch.utils.data import TensorDataset

from metalearn_tut import ProtoNet, evaluate, meta_train, models, tasks

data = tasks.glyphs("train").as_supervised()
dataset = TensorDataset(torch.tensor(data.images), torch.tensor(data.labels))
train, validation, test = tasks.from_dataset(dataset, classes=range(0, 1000, 5)).split()
learner = ProtoNet(models.Conv4(in_channels=1, ways=5, width=16, norm="support"))
meta_train(learner, train.sampler(ways=5, shots=5, queries=5), steps=50)
print(evaluate(learner, test.sampler(ways=5, shots=5, queries=10), n_tasks=100))
