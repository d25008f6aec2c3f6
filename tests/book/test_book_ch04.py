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
    return SimpleNamespace(**book_tools.run(CHAPTER, SEED=0))


@pytest.fixture(scope="module")
def dense():
    return pretrained.load("glyphs_5way_1shot")


@pytest.fixture(scope="module")
def small():
    """A narrow network of the same form, as random as it begins; two steps move its body."""
    torch.manual_seed(0)
    network = models.Conv4(in_channels=1, ways=5, width=4, norm="support")
    return MAML(network, inner_lr=0.4, inner_steps=2, zero_head=True)


def few(count=2):
    return tasks.glyphs("validation").sampler(ways=5, shots=1, queries=1, seed=4).batch(0, count)


def regressions(count, units=3, inputs=2, n=60):
    """Weights ``[units, inputs, 3, 3]`` and rows ``[n, 9 inputs]`` in double precision."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(count):
        shapes = (units, inputs, 3, 3), (n, 9 * inputs)
        yield tuple(torch.randn(*shape, generator=generator).double() for shape in shapes)


# The functions against the modules


@pytest.mark.parametrize("steps", [0, 2])
def test_rows_of_every_layer_are_the_modules(chapter, small, steps):
    for task in few():
        params = small.adapt(task.support_x, task.support_y, steps=steps).params
        for layer in LAYERS:
            x = tasks.as_float(task.support_x)
            mine = chapter.rows_of(small.model, params, x, layer)
            right = saliency.layer_inputs(small, task, layers=[layer], inner_steps=steps)[layer]
            torch.testing.assert_close(mine.double(), right, rtol=0, atol=0)


def test_the_ends_of_tasks_are_where_they_adapt_to(chapter, small):
    batch = few()
    for (params, x), task in zip(chapter.ends_of(small, batch), batch, strict=True):
        right = small.adapt(task.support_x, task.support_y).params
        assert all(torch.equal(params[n], right[n]) for n in right)
        assert torch.equal(x, tasks.as_float(task.support_x))


@pytest.mark.parametrize("share", [0.9, 0.5, 0.15])
def test_pruning_a_layer_is_the_best_refit_of_each_unit(chapter, share):
    for weight, X in regressions(3):
        every = torch.ones_like(weight, dtype=torch.bool)
        new, keep = chapter.prune(weight, every, X, share)
        assert keep.sum() == keep.numel() - round((1 - share) * keep.numel())
        for w, left, kept in zip(weight, new, keep, strict=True):
            kept = kept.flatten()
            right = torch.zeros_like(w.flatten())
            outputs = (X @ w.flatten())[:, None]
            right[kept] = torch.linalg.lstsq(X[:, kept], outputs).solution[:, 0]
            torch.testing.assert_close(left.flatten(), right, rtol=1e-4, atol=1e-5)  # the ridge


def test_the_cheapest_go_and_what_is_gone_stays_gone(chapter):
    for weight, X in regressions(3):
        every = torch.ones_like(weight, dtype=torch.bool)
        new, keep = chapter.prune(weight, every, X, 0.6)
        diagonal = (X.T @ X / len(X) + 1e-6 * torch.eye(18)).inverse().diagonal()
        scores = weight.flatten(1) ** 2 / diagonal
        assert scores[~keep.flatten(1)].max() < scores[keep.flatten(1)].min()
        again, less = chapter.prune(new, keep, X, 0.3)
        assert not less[~keep].any() and (again[~less] == 0).all() and less.sum() == 16
        large = torch.where(keep, new, 100.0)  # nothing that is gone comes back, however large
        assert not chapter.prune(large, keep, X, 0.3)[1][~keep].any()


def test_the_loop_is_the_packages(chapter, small):
    """Rounds without training: the same masks and weights as ``anp_prune``."""
    mine, theirs = copy.deepcopy(small), copy.deepcopy(small)
    layers, batch = LAYERS[1:], few(3)
    masks = {n: torch.ones_like(mine.model.get_submodule(n).weight).bool() for n in layers}
    seen = []

    def train(masks):
        mine.set_masks({f"{n}.weight": m for n, m in masks.items()})
        seen.append(sum(int(m.sum()) for m in masks.values()))

    ends = lambda: chapter.ends_of(mine, batch)  # noqa: E731
    chapter.prune_and_retrain(mine.model, masks, ends, train, (0.5, 0.25))
    assert seen == [216, 108]  # of 3 · 4 · 4 · 9
    for share in (0.5, 0.25):  # of all, each round
        hessians = saliency.layer_hessians(theirs, batch, layers=layers)
        scores = saliency.obs_scores(theirs, hessians, guard=0.0)
        old = theirs.masks or {f"{n}.weight": torch.ones_like(masks[n]) for n in layers}
        new = saliency.select(scores, old, share)
        for layer in layers:
            name = f"{layer}.weight"
            weight = theirs.model.get_submodule(layer).weight
            settings = {"guard": 0.0, "update_hinv": True}
            right, _ = saliency.prune_layer(
                weight.detach(), None, new[name], None, hessians[layer], **settings
            )
            with torch.no_grad():
                weight.copy_(right)
        theirs.set_masks(new)
    for layer in layers:
        assert torch.equal(masks[layer], theirs.masks[f"{layer}.weight"])
        pair = (m.model.get_submodule(layer).weight for m in (mine, theirs))
        torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-6)


def test_the_lost_output_is_a_share_of_the_output():
    weight, X = next(regressions(1, units=4))
    space = book_tools.run(CHAPTER, rows=X.float(), weight=weight)
    lost = [space["output_lost"](share * weight) for share in (1.0, 0.5, 0.0)]
    assert lost == pytest.approx([0, 0.25, 1])


class Paths(nn.Module):
    """Multiplies each input by a weight, then the results by others, and adds up."""

    def __init__(self):
        super().__init__()
        self.v = nn.Parameter(torch.tensor([1.0, 0.0]).double())
        self.add = nn.Linear(2, 1, bias=False).double()
        with torch.no_grad():
            self.add.weight.copy_(torch.tensor([[0.5, 1.0]]))

    def forward(self, x):
        return self.add(x * self.v)


@pytest.mark.parametrize("mask", [[1, 1], [0, 1], [1, 0]])
@pytest.mark.parametrize("target", [2.0, -2.0])
def test_the_two_paths_are_a_learner(chapter, mask, target):
    loss = lambda outputs, targets: F.mse_loss(outputs, targets) / 2  # noqa: E731
    learner, x = MAML(Paths(), inner_lr=1.0, inner_steps=1, loss=loss), torch.eye(2).double()
    learner.set_masks({"add.weight": torch.tensor([mask]).bool()})
    y = torch.tensor([[0.5], [target]]).double()
    task = tasks.Task(x, y, x, y)
    right = learner.task_losses(tasks.TaskBatch.stack([task])).losses.item()
    value, start, end = chapter.two_paths(mask, target)
    assert value == pytest.approx(right) and start.tolist() == [1, 0]
    torch.testing.assert_close(learner.adapt(x, y).params["v"], end)
    if mask == [1, 1]:
        for steps, v in ((0, start), (1, end)):
            there = {"inner_steps": steps, "layers": ["add"], "ridge": 1e-12}
            gram = saliency.layer_hessians(learner, [task], **there)["add"].gram
            torch.testing.assert_close(gram, torch.diag(v**2 / 2).detach())


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_tasks_are_of_the_split_that_is_asked_for(chapter, split):
    mine = chapter.characters(split, 3)[2]
    right = tasks.glyphs(split).sampler(ways=5, shots=1, queries=5, seed=3)[2]
    assert torch.equal(mine.support_x, right.support_x) and mine.tags == right.tags


def test_a_cut_learner_has_lost_the_share_and_the_dense_one_nothing(small):
    space = book_tools.run(CHAPTER, dense=small, SEED=1)
    before = copy.deepcopy(small.meta_parameters())
    pruned = space["cut"](0.6, method="magnitude", spare=LAYERS[:1])
    masks = pruned.masks
    assert kept_fraction(masks) == pytest.approx(0.4, abs=0.01)
    assert masks["blocks.0.conv.weight"].all()
    saliency.check_pruned(pruned.meta_parameters(), masks)
    after = small.meta_parameters()
    assert all(torch.equal(before[n], after[n]) for n in before) and not small.masks


def test_both_arms_are_trained_on_the_same_tasks(small):
    seen = []
    space = book_tools.run(CHAPTER, SEED=2, masked=copy.deepcopy(small), ten=few())
    space["meta_train"] = lambda *args, **run: seen.append((args, run))
    space["trained_on"](small, 45)
    space["train"]({"blocks.1.conv": torch.ones(4, 4, 3, 3).bool()})
    (first, run), (second, again) = seen
    assert (run["steps"], again["steps"]) == (45, 15)
    assert torch.equal(first[1][0].support_x, second[1][0].support_x)
    assert second[0].masks.keys() == {"blocks.1.conv.weight"}
    assert len(space["adapted"]()) == 2


# The comparisons with an error planted


def run(*cells, plant=None):
    """Cells that compare; the sentences of the last cell are checked where the chapter runs."""
    given = {"SEED": 0, "dense": pretrained.load("glyphs_5way_1shot")}
    cells = [c for c in cells if c != "checked"]
    space = book_tools.run(CHAPTER, *cells, plant=plant, **given)
    made = book_tools.code_cells(CHAPTER)["checked"]
    compared = made[: made.index("\nsingle, _ =")]
    exec(compared if plant is None else compared.replace(*plant), space)
    return space


CELLS = ["three", "layer", "paths", "checked"]
COMPARING = dict.fromkeys(
    [
        "three scores",
        "without the second",
        "refitted",
        "two paths",
        "their scores",
        "layer Hessian",
        "kept",
        "many removed",
    ],
    CELLS,
)


@pytest.mark.slow(quick=1)
def test_every_comparison_passes_and_is_known(capsys):
    printed = book_tools.printed_by(run, COMPARING, capsys)
    assert book_tools.compared(printed) == set(COMPARING)


@pytest.mark.slow(quick=3)
@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("three scores", ("scores3 = w3**2 / inverse3", "scores3 = w3 / inverse3")),
        ("three scores", ("(X.T @ X / len(X)).inverse()", "(X.T @ X).inverse()")),
        ("without the second", ("moved = w3 - w3[1]", "moved = w3 + w3[1]")),
        ("refitted", ("X[:, [0, 2]], (X @ w3)", "X[:, [0, 2]], (X[:, [0, 2]] @ w3[[0, 2]])")),
        ("two paths", ("end = v - torch", "end = v + torch")),
        ("two paths", ("(u * end - wanted).square().mean() / 2",
                       "(u * end - wanted).square().mean()")),
        ("their scores", ("* v).square() / 2", "* v).square()")),
        ("layer Hessian", ("return F.unfold(", "return 2 * F.unfold(")),
        ("kept", ("scores = w**2 / inverse", "scores = w**2 * inverse")),
        ("many removed", ("delta = -inverse[:, gone]", "delta = inverse[:, gone]")),
        ("many removed", ("block = inverse[gone][:, gone]",
                          "block = torch.diag(inverse[gone][:, gone].diagonal())")),
    ],
)  # fmt: skip
def test_a_planted_error_fails_its_comparison(name, plant):
    with pytest.raises(AssertionError, match=f"^{re.escape(name)}"):
        run(*COMPARING[name], plant=plant)
