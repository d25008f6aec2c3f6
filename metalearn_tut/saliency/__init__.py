"""Floor 5: which weights a meta-learned network can lose and still learn new tasks.

Adaptation-aware network pruning (ANP; Gao et al., *Pruning Meta-Trained Networks for On-Device
Adaptation*, CIKM 2021): layer-wise optimal brain surgery with the layer Hessians taken at the
weights that tasks adapt to, in rounds with masked meta-training between them. Beside it the
scores it is compared with. We know the paper's abstract and the authors' public code, not the
full text; what is our reconstruction is called so.
"""

from metalearn_tut.saliency.capture import layer_inputs, patches, prunable_layers
from metalearn_tut.saliency.filters import best_filters, filter_scores, remove_filters
from metalearn_tut.saliency.gradient_scores import gradient_scores, magnitude_scores, random_scores
from metalearn_tut.saliency.hessians import LayerHessian, layer_hessians
from metalearn_tut.saliency.masks import (
    check_pruned,
    full_masks,
    kept_fraction,
    layer_fractions,
    mask_optimizer,
    select,
)
from metalearn_tut.saliency.obs import obs_scores, prune_layer
from metalearn_tut.saliency.plan import SCORES, Criterion, Rounds, schedule_to
from metalearn_tut.saliency.round_files import Pruned, load_round
from metalearn_tut.saliency.rounds import anp_prune
from metalearn_tut.saliency.scoring import scores_of
from metalearn_tut.saliency.sparse import Sparse, load_sparse, read_sparse, save_sparse

__all__ = [
    "SCORES",
    "Criterion",
    "LayerHessian",
    "Pruned",
    "Rounds",
    "Sparse",
    "anp_prune",
    "best_filters",
    "check_pruned",
    "filter_scores",
    "full_masks",
    "gradient_scores",
    "kept_fraction",
    "layer_fractions",
    "layer_hessians",
    "layer_inputs",
    "load_round",
    "load_sparse",
    "magnitude_scores",
    "mask_optimizer",
    "obs_scores",
    "patches",
    "prunable_layers",
    "prune_layer",
    "random_scores",
    "read_sparse",
    "remove_filters",
    "save_sparse",
    "schedule_to",
    "scores_of",
    "select",
]
