"""Nodes keep their images, and learn together a network that computes only some of its filters."""

from metalearn_tut import evaluate, models, tasks
from metalearn_tut.federated import Federation, by_classes, run_rounds
from metalearn_tut.gating import ChannelGatedConv4, MetaGater

source = tasks.glyphs("train").select(range(40))
nodes, joining = by_classes(source, nodes=10, classes_per_node=5, local_labels=True)
network = ChannelGatedConv4(models.Conv4(1, ways=5, width=8, norm="support"))
learner = MetaGater(network, inner_lr=0.4, sparsity=0.5, target=0.5)
federation = Federation(learner, nodes, 12, support=5, query=15, gate_outer_lr=0.2)
for record in run_rounds(federation):
    print(record["round"], f"{record['loss']:.2f}")
print(evaluate(learner, joining[0].sampler(support=5, query=15), n_tasks=50))
