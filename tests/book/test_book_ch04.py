"""Chapter 4's own code: on other inputs than the chapter shows, and with errors planted."""

import copy
import re
from types import SimpleNamespace

import book_tools
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metalearn_tut import models, pretrained, saliency, tasks
from metalearn_tut.learners.maml import MAML
from metalearn_tut.saliency.masks import kept_fraction

CHAPTER = "04_anp_saliency"
LAYERS = [f"blocks.{i}.conv" for i in range(4)]


@pytest.fixture(scope="module")
def chapter():
    return SimpleNamespace(**book_tools.run(CHAPTER))


@pytest.fixture(scope="module")
def dense():
    return pretrained.load("glyphs_5way_1shot")


@pytest.fixture(scope="module")
def small():
    """A narrow network of the same form, as random as it begins; two steps move its body."""
    torch.manual_seed(0)
    network = models.Conv4(in_channels=1, ways=5, width=4, norm="support")
    return MAML(network, inner_lr=0.4, inner_steps=2, zero_head=True)


def regressions(count, d=5, n=12):
    """Weights ``[d]`` and inputs ``[n, d]`` in double precision."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(count):
        w, X = (torch.randn(*shape, generator=generator).double() for shape in ((d,), (n, d)))
        yield w, X


# The functions against the modules


def layer_of(w, X, ridge=0.0):
    """A regression as the module knows it: a linear layer with one output, and its Hessian."""
    linear = nn.Linear(len(w), 1, bias=False).double()
    with torch.no_grad():
        linear.weight.copy_(w[None])
    return MAML(linear, 0.1), saliency.LayerHessian("", X.T @ X / len(X), len(X), ridge)


def test_scores_are_the_modules_and_those_of_each_unit_by_itself(chapter):
    for w, X in regressions(5):
        learner, h = layer_of(w, X)
        theirs = saliency.obs_scores(learner, {"": h}, guard=0.0)["weight"]
        mine = chapter.obs_score(torch.stack([w, 3 * w], 1), h.inverse)
        torch.testing.assert_close(mine[:, 0], theirs[0], rtol=1e-10, atol=0)
        torch.testing.assert_close(mine[:, 1], 9 * theirs[0], rtol=1e-10, atol=0)


def test_removing_one_weight_is_the_best_refit_and_costs_its_score(chapter):
    for w, X in regressions(5):
        inverse = (X.T @ X / len(X)).inverse()
        for r in range(len(w)):
            new = chapter.remove_one(w, r, inverse)
            best = chapter.refit(X, w, [j for j in range(len(w)) if j != r])
            torch.testing.assert_close(new, best, rtol=1e-9, atol=1e-10)
            price = chapter.obs_score(w[:, None], inverse)[r, 0]
            torch.testing.assert_close((X @ (new - w)).square().mean(), price)


def test_the_refit_leaves_an_error_that_no_kept_input_explains(chapter):
    for w, X in regressions(5):
        new = chapter.refit(X, w, [0, 3])
        assert new[[1, 2, 4]].tolist() == [0, 0, 0]
        left = X[:, [0, 3]].T @ (X @ (new - w))
        torch.testing.assert_close(left, torch.zeros(2).double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("downdate", [False, True])
def test_removing_several_is_the_module(chapter, downdate):
    for w, X in regressions(5):
        h = layer_of(w, X)[1]
        order = chapter.obs_score(w[:, None], h.inverse)[:, 0].argsort()[:3].tolist()
        keep = torch.ones(1, len(w), dtype=torch.bool)
        keep[0, order] = False
        settings = {"guard": 0.0, "update_hinv": downdate}
        theirs, _ = saliency.prune_layer(w[None], None, keep, None, h, **settings)
        mine = chapter.remove_all(w, order, h.inverse, downdate)
        torch.testing.assert_close(mine, theirs[0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_inputs_and_hessians_of_every_layer_are_the_modules(chapter, small, steps):
    pair = tasks.glyphs("validation").sampler(ways=5, shots=1, queries=1, seed=4).batch(0, 2)
    theirs = saliency.layer_hessians(small, pair, inner_steps=steps)
    for layer in LAYERS:
        inputs = [chapter.input_of(small, task, layer, steps) for task in pair]
        rows = [chapter.patch_rows(x) for x in inputs]
        for task, mine in zip(pair, rows, strict=True):
            right = saliency.layer_inputs(small, task, layers=[layer], inner_steps=steps)[layer]
            torch.testing.assert_close(mine, right, rtol=0, atol=0)
        matrix = chapter.hessian(torch.cat(rows))
        torch.testing.assert_close(matrix, theirs[layer].matrix, rtol=1e-9, atol=1e-12)


def test_the_ridge_stands_on_the_diagonal(chapter):
    rows = torch.zeros(4, 3).double()
    assert torch.equal(chapter.hessian(rows, ridge=0.5), 0.5 * torch.eye(3).double())


def test_the_lost_output_is_a_share_of_the_output():
    X = torch.randn(20, 18, generator=torch.Generator().manual_seed(0)).double()
    weight = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(1)).double()
    space = book_tools.run(CHAPTER, rows=X, columns=weight.flatten(1).T)
    lost = [space["output_lost"](share * weight) for share in (1.0, 0.5, 0.0)]
    assert lost == pytest.approx([0, 0.25, 1])


@pytest.mark.parametrize("k", [0, 1, 4])
def test_the_scalar_loss_is_that_of_the_loop(chapter, k):
    w = 0.9
    for _ in range(k):
        w -= 0.2 * (w - 0.5)
    value = chapter.scalar_loss(0.9, a=0.5, b=-1.0, alpha=0.2, k=k)
    assert value == pytest.approx((w + 1) ** 2 / 2, abs=1e-14)


def test_scales_multiply_each_input_and_are_trained(chapter):
    layer = chapter.Scales([2.0, -1.0])
    x = torch.tensor([[3.0, 5.0], [1.0, 0.0]], dtype=torch.float64)
    assert layer(x).tolist() == [[6, -5], [2, 0]]
    layer(x).sum().backward()
    assert layer.v.grad.tolist() == [4, 5]


def test_the_learner_of_two_paths_steps_as_on_paper(chapter):
    learner, x = chapter.two_paths(), torch.eye(2).double()
    for target in (2.0, -2.0):
        y = torch.tensor([[0.5], [target]]).double()
        adapted = learner.adapt(x, y).params
        assert adapted["0.v"].tolist() == [1, target / 2]
        assert adapted["1.weight"].tolist() == [[0.5, 1]]
    assert chapter.half_squared(torch.tensor([3.0, 1.0]), torch.zeros(2)) == 2.5


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_tasks_are_of_the_split_that_is_asked_for(chapter, split):
    mine = chapter.glyph_tasks(split, 3)[2]
    right = tasks.glyphs(split).sampler(ways=5, shots=1, queries=5, seed=3)[2]
    assert torch.equal(mine.support_x, right.support_x) and mine.tags == right.tags


def test_a_cut_learner_has_lost_the_share_and_the_dense_one_nothing(small):
    space = book_tools.run(CHAPTER, dense=small)
    before = copy.deepcopy(small.meta_parameters())
    pruned = space["cut"](0.6, method="magnitude", spare=LAYERS[:1])
    masks = pruned.masks
    assert kept_fraction(masks) == pytest.approx(0.4, abs=0.01)
    assert masks["blocks.0.conv.weight"].all()
    saliency.check_pruned(pruned.meta_parameters(), masks)
    after = small.meta_parameters()
    assert all(torch.equal(before[n], after[n]) for n in before) and not small.masks


def test_waves_are_learned_from_the_seed_on_and_errors_are_of_pruned_networks():
    space = book_tools.run(CHAPTER, unseen=tasks.sinusoid(seed=4).batch(0, 6))
    one, same, other = (space["wave_learner"](seed, steps=1) for seed in (1, 1, 2))
    pairs = [zip(one.meta_parameters().values(), m.meta_parameters().values(), strict=True)
             for m in (same, other)]  # fmt: skip
    assert all(torch.equal(p, q) for p, q in pairs[0])
    assert not all(torch.equal(p, q) for p, q in pairs[1])
    whole = one.task_losses(space["unseen"]).losses.detach()
    for share in (0.0, 0.5):
        less = space["errors_without"](one, share, method="magnitude", compensate=False)
        right = copy.deepcopy(one)
        scores = saliency.magnitude_scores(right, layers=["2"])
        right.set_masks(saliency.select(scores, saliency.full_masks(right, ["2"]), share))
        torch.testing.assert_close(less, right.task_losses(space["unseen"]).losses.detach())
        assert torch.equal(less, whole) == (share == 0)


def test_guessing_is_gradient_descent_on_the_cross_entropy(chapter):
    found = chapter.guessing(3, steps=2, ways=4, features=6)
    g = torch.Generator().manual_seed(0)
    support, query = (torch.randn(3, n, 6, generator=g) for n in (4, 20))
    start = 0.3 * torch.randn(3, 6, 4, generator=g)
    labels = torch.arange(20) // 5
    for i in range(3):
        w = start[i].requires_grad_()
        for step in range(3):
            right = ((query[i] @ w).argmax(1) == labels).float().mean()
            assert found[step, i] == right
            loss = F.cross_entropy(support[i] @ w, torch.arange(4), reduction="sum")
            w = (w - 0.1 * torch.autograd.grad(loss, w)[0]).detach().requires_grad_()


def test_every_round_is_retrained_on_tasks_of_its_own(small):
    seen = []
    space = book_tools.run(CHAPTER, meta_train=lambda *args, **run: seen.append((args, run)))
    for number in (1, 2):
        space["retrain"](small, number)
    (first, run), (second, _) = seen
    assert first[0] is small and run["steps"] * run["tasks_per_step"] == 60
    right = space["glyph_tasks"]("train", 101)[0].support_x
    assert torch.equal(first[1][0].support_x, right)
    assert not torch.equal(second[1][0].support_x, right)


# The comparisons with an error planted


def run(*cells, plant=None):
    """Cells that compare, with what earlier cells made."""
    given = {"dense": pretrained.load("glyphs_5way_1shot"), "layers": LAYERS}
    return book_tools.run(CHAPTER, *cells, plant=plant, **given)


THREE = ["three-weights", "three-refit"]
MODULE = ["layer-error", "compare-module"]
COMPARING = {
    "three scores": ["three-weights"],
    "second removed": ["three-weights"],
    "three refits": THREE,
    "their errors": THREE,
    "both, down-dated": ["three-weights", "two-run"],
    "both, refit": ["three-weights", "two-run"],
    "conv2d": ["layer-error"],
    "price of one": ["layer-error"],
    "curvature": ["which-scalar"],
    "scores after 0 steps": ["toy-run"],
    "scores after 1 steps": ["toy-run"],
    "damage": ["toy-run"],
    "layer Hessian": MODULE,
    "scores": MODULE,
    "40 removed, one inverse": [*MODULE, "compare-removal"],
    "40 removed, down-dated": [*MODULE, "compare-removal"],
}


@pytest.mark.slow
def test_every_comparison_passes_and_is_known(capsys):
    printed = book_tools.printed_by(run, COMPARING, capsys)
    assert book_tools.compared(printed) == set(COMPARING)


@pytest.mark.slow(quick=3)
@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("three scores", ("return weights**2 / inverse", "return weights / inverse")),
        ("three scores", ("H3 = X.T @ X / len(X)", "H3 = X.T @ X")),
        ("second removed", ("return w - w[r] / inverse", "return w + w[r] / inverse")),
        ("second removed", ("remove_one(w3, 1, inverse3)", "remove_one(w3, 1, H3)")),
        ("three refits", ("(X @ w)[:, None]", "(X[:, kept] @ w[kept])[:, None]")),
        ("their errors", ("(X @ (new - w3)).square().mean() for new",
                          "(X @ new).square().mean() for new")),
        ("both, down-dated", ("inverse = inverse - step", "inverse = inverse + step")),
        ("both, down-dated", ("[1, 0], inverse3, downdate=True", "[1, 0], inverse3, downdate=0")),
        ("both, refit", ("refit(X, w3, [2])", "refit(X, w3, [0, 2])")),
        ("conv2d", (".transpose(1, 2).flatten(0, 1).double()",
                    ".transpose(1, 2).flatten(0, 1).double().flip(1)")),
        ("conv2d", ("permute(0, 2, 3, 1)", "permute(0, 3, 2, 1)")),
        ("price of one", ("[100, 7] - 1e-6 * delta", "[100, 7] + 1e-6 * delta")),
        ("price of one", ("(rows @ delta).square().mean()",
                          "(rows[:245] @ delta).square().mean()")),
        ("curvature", ("near[0] - 2 * near[1]", "near[0] - near[1]")),
        ("curvature", ("right = 0.9**6", "right = 0.9**3")),
        ("scores after 0 steps", ('"inner_steps": steps, "layers"', '"inner_steps": 1, "layers"')),
        ("scores after 1 steps", ('"inner_steps": steps, "layers"', '"inner_steps": 0, "layers"')),
        ("damage", ("losses.mean() - 0.25", "losses.mean()")),
        ("damage", ("lame.set_masks(", "lame.set_masks and (")),
        ("layer Hessian", ("hessian(rows), theirs", "hessian(rows[:-49]), theirs")),
        ("scores", ("{third: theirs}, guard=0.0)", "{third: theirs}, guard=1e-2)")),
        ("40 removed, one inverse", ("[:40].tolist()", "[:40].flip(0).tolist()")),
        ("40 removed, down-dated", ("order, inverse_ours, exact_way)",
                                    "order, inverse_ours, False)")),
    ],
)  # fmt: skip
def test_a_planted_error_fails_its_comparison(name, plant):
    with pytest.raises(AssertionError, match=f"^{re.escape(name)}"):
        run(*COMPARING[name], plant=plant)
