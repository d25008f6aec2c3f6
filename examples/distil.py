"""A large teacher learns each task first, and teaches it to the small student (TSMD)."""

from metalearn_tut import MAML, evaluate, meta_train, models, pretrained, tasks
from metalearn_tut.distillation import MetaDistiller

train, test = (tasks.glyphs(part).sampler(ways=5, shots=1, queries=5) for part in ("train", "test"))
teacher = pretrained.load("glyphs_5way_1shot")
small = models.Conv4(1, ways=5, width=8, norm="support")
student = MAML(small, inner_lr=0.4, inner_steps=2, zero_head=True)
weights = {"temperature": 1, "ce_weight": 0.5, "kd_weight": 0.5}
distiller = MetaDistiller(teacher, student, fixed_teacher=True, **weights)
meta_train(distiller, train, steps=25, outer_lr=1e-2)
print(evaluate(distiller, test, n_tasks=50))
network = distiller.deploy(test[0])  # the student alone, for one task
print(sum(p.numel() for p in network.parameters()), "parameters")
