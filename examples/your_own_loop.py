"""An outer loop of your own: batches of tasks from a DataLoader, any optimizer of PyTorch."""

import torch

from metalearn_tut import MAML, evaluate, models, tasks

train, test = (tasks.emoji(part).sampler(ways=5, shots=1, queries=4) for part in ("train", "test"))
network = models.Conv4(3, ways=5, width=8, norm="support", image_size=32)
learner = MAML(network, inner_lr=0.4, inner_steps=2)
optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-2)
for step, batch in enumerate(train.loader(tasks_per_step=4, steps=40)):
    losses, accuracy = learner.task_losses(batch)
    optimizer.zero_grad()
    losses.mean().backward()
    optimizer.step()
    if step % 20 == 0:
        print(step, losses.mean().item(), accuracy.mean().item())
print(evaluate(learner, test, n_tasks=100))
