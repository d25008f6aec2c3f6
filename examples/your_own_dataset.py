"""From a PyTorch dataset of (image, label) pairs, such as torchvision's, to few-shot tasks."""

import torch
from torch.utils.data import TensorDataset

from metalearn_tut import ProtoNet, evaluate, meta_train, models, tasks

data = tasks.emoji("train").as_supervised()
dataset = TensorDataset(torch.tensor(data.images), torch.tensor(data.labels))
train, validation, test = tasks.from_dataset(dataset).split()
learner = ProtoNet(models.Conv4(3, ways=5, width=16, norm="support", image_size=32))
meta_train(learner, train.sampler(ways=5, shots=1, queries=4), steps=50)
print(evaluate(learner, test.sampler(ways=5, shots=1, queries=4), n_tasks=100))
