"""Shorten a residual network: images vote which blocks they need least (ABP)."""

from metalearn_tut import models, tasks
from metalearn_tut.block_voting import Recipe, abp_prune, image_accuracy

data = tasks.glyphs("train").select(range(10)).as_supervised()
images = data.images.repeat(3, axis=1)  # the network wants three channels
network = models.CifarResNet(20, classes=10)
short, shorter = Recipe(epochs=3, lr=0.05, batch=20), Recipe(epochs=1, lr=0.01, batch=20)
pruned = abp_prune(network, (images, data.labels), n_prune=3, recipes=(short, shorter, short))
print(len(network.blocks), "blocks before,", len(pruned.network.blocks), "after")
print(image_accuracy(pruned.network, (images, data.labels)))
