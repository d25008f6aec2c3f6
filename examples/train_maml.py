"""Meta-train MAML on scripts that it knows, and measure it on scripts that it never saw."""

from metalearn_tut import MAML, evaluate, meta_train, models, tasks

train, test = tasks.glyphs("train"), tasks.glyphs("test")
model = models.Conv4(in_channels=1, ways=5, width=8, norm="support")
learner = MAML(model, inner_lr=0.4, inner_steps=2, zero_head=True)
meta_train(learner, train.sampler(ways=5, shots=1, queries=5), steps=50, outer_lr=1e-2)
print(evaluate(learner, test.sampler(ways=5, shots=1, seed=1), n_tasks=100))
