"""Meta-train MAML on some emoji, and measure it on emoji that it never saw."""

from metalearn_tut import MAML, evaluate, meta_train, models, tasks

train, test = tasks.emoji("train"), tasks.emoji("test")
model = models.Conv4(in_channels=3, ways=5, width=8, norm="support", image_size=32)
learner = MAML(model, inner_lr=0.4, inner_steps=2, zero_head=True)
meta_train(learner, train.sampler(ways=5, shots=1, queries=4), steps=50, outer_lr=1e-2)
print(evaluate(learner, test.sampler(ways=5, shots=1, queries=4, seed=1), n_tasks=100))
