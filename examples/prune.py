"""Take half of a trained learner's weights away (ANP), train on, and save what is left."""

from pathlib import Path

from metalearn_tut import evaluate, meta_train, pretrained, tasks
from metalearn_tut.saliency import Rounds, anp_prune, save_sparse

train, test = (tasks.glyphs(part).sampler(ways=5, shots=1, queries=5) for part in ("train", "test"))
learner = pretrained.load("glyphs_5way_1shot_small")
rounds = Rounds((0.25, 0.25), retrain=lambda learner, _: meta_train(learner, train, steps=20))
pruned = anp_prune(learner, train, rounds)
save_sparse("half.safetensors", learner)
print(pruned.history[-1]["kept"], Path("half.safetensors").stat().st_size, "bytes")
print(evaluate(learner, test, n_tasks=100))
