"""Chapter 1's own code: on other inputs than the chapter shows, and with errors planted."""

import copy
import itertools
from types import SimpleNamespace

import book_tools
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metalearn_tut import models, tasks
from metalearn_tut.learners import ProtoNet, protonet
from metalearn_tut.tasks.sampler import distinct

CHAPTER = "01_few_shot_tasks"


@pytest.fixture(scope="module")
def chapter():
    return SimpleNamespace(**book_tools.run(CHAPTER))


def noise_source(seed=0, classes=8, side=32):
    """Classes of noisy copies of one random color image each."""
    rng = np.random.default_rng(seed)
    prints = rng.integers(256, size=(classes, 1, 3, side, side))
    images = (prints + rng.integers(-90, 90, size=(classes, 12, 3, side, side))).clip(0, 255)
    labels = np.arange(classes).repeat(12)
    return tasks.from_arrays(images.reshape(-1, 3, side, side).astype(np.uint8), labels)


# The functions against the modules


@pytest.mark.parametrize("seed", [0, 5, 2**64 - 3])
@pytest.mark.parametrize(
    ("classes", "per_class", "ways", "shots", "queries"),
    [(5, 2, 5, 1, 1), (40, 20, 20, 5, 15), (300, 7, 2, 3, 4), (9, 30, 1, 1, 29)],
)
def test_a_task_drawn_by_hand_is_the_samplers(
    chapter, seed, classes, per_class, ways, shots, queries
):
    numbers = torch.arange(classes * per_class, dtype=torch.float64)
    source = tasks.from_arrays(numbers[:, None], numbers // per_class)
    sampler = source.sampler(ways, shots, queries, seed=seed)
    for index in (0, 1, 2**63 + 1):
        mine = chapter.draw_task(seed, index, classes, per_class, ways, shots, queries)
        task = sampler[index]
        assert torch.equal(mine[:, :shots].flatten().double(), task.support_x[:, 0])
        assert torch.equal(mine[:, shots:].flatten().double(), task.query_x[:, 0])


def test_dealing_is_the_head_of_a_shuffle(chapter):
    for n in range(1, 6):
        for k in range(1, n + 1):
            everything = itertools.product(*(range(n - i) for i in range(k)))
            hands = [tuple(chapter.deal(list(draws), n)) for draws in everything]
            assert sorted(hands) == sorted(itertools.permutations(range(n), k))
    draws = np.random.default_rng(1).integers(2**63, size=30).tolist()
    assert chapter.deal(draws, 50) == distinct(draws, 50)


def test_the_nearest_mean_is_the_modules_with_unequal_numbers_in_any_order(chapter):
    generator = torch.Generator().manual_seed(3)
    labels = torch.tensor([2, 0, 1, 1, 2, 2, 0])
    support, queries = (torch.randn(n, 6, generator=generator).double() for n in (7, 4))
    mine = chapter.nearest_mean(nn.Identity(), support, labels, queries)
    right = protonet.distance_logits(queries, protonet.prototypes(support, labels))
    torch.testing.assert_close(mine, right)


def test_training_is_the_modules(chapter, monkeypatch):
    """Three steps of each, plain ones: Adam's first steps would magnify rounding."""
    monkeypatch.setattr(torch.optim, "Adam", torch.optim.SGD)
    sampler = noise_source().sampler(4, 1, 2)
    torch.manual_seed(1)
    body = chapter.conv_net(width=8)
    theirs = copy.deepcopy(body)
    chapter.train(body, sampler, steps=3)
    learner = ProtoNet(SimpleModel(theirs))
    optimizer = torch.optim.SGD(theirs.parameters(), 3e-3)
    for i in range(3):
        optimizer.zero_grad()
        learner.task_losses(sampler.batch(i, 1)).losses.mean().backward()
        optimizer.step()
    for mine, right in zip(body.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-3, atol=2e-4)


class SimpleModel(nn.Module):
    """A body as a network that ProtoNet takes."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def embed(self, x):
        return self.body(x)


def test_every_image_is_seen_by_itself(chapter):
    torch.manual_seed(0)
    body, images = chapter.conv_net(), torch.rand(4, 3, 32, 32)
    together = body(images)
    assert together.shape == (4, 128)
    for i in range(4):
        torch.testing.assert_close(body(images[i : i + 1])[0], together[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [0, 3])
def test_descending_is_sgd_on_the_support_set_and_leaves_the_body_alone(chapter, steps):
    task = noise_source().sampler(5, 1, 1)[0]
    x, query = task.support_x / 255, task.query_x / 255
    torch.manual_seed(2)
    body = chapter.conv_net()
    before = copy.deepcopy(body.state_dict())
    torch.manual_seed(7)
    mine = chapter.descend(body, x, task.support_y, query, steps, lr=0.1)
    torch.manual_seed(7)
    head = nn.Linear(128, 5)
    params = dict(nn.Sequential(body, head).named_parameters())
    model = nn.Sequential(copy.deepcopy(body), copy.deepcopy(head))
    for _ in range(steps):
        loss = F.cross_entropy(torch.func.functional_call(model, params, (x,)), task.support_y)
        grads = torch.autograd.grad(loss, list(params.values()))
        params = {n: p - 0.1 * g for (n, p), g in zip(params.items(), grads, strict=True)}
    right = torch.func.functional_call(model, params, (query,))
    torch.testing.assert_close(mine, right, rtol=1e-3, atol=1e-4)
    assert all(torch.equal(p, before[n]) for n, p in body.state_dict().items())


def test_accuracies_are_shares_of_right_answers(chapter):
    sampler = noise_source(3).sampler(5, 1, 2)

    def answer(support_x, support_y, query_x):
        assert support_x.max() <= 1 and query_x.dtype == torch.float32
        return F.one_hot(torch.zeros(len(query_x), dtype=torch.int64), 5)

    found = chapter.accuracies(answer, sampler, 4)
    right = [(sampler[i].query_y == 0).float().mean().item() for i in range(4)]
    assert found.tolist() == pytest.approx(right)


def test_pixels_are_the_nearest_mean_of_a_flat_body(chapter):
    task = noise_source(4).sampler(5, 2, 3)[0]
    x, query = task.support_x / 255, task.query_x / 255
    answers = chapter.nearest(nn.Flatten())(x, task.support_y, query).argmax(1)
    for image, answer in zip(query, answers, strict=True):
        means = torch.stack([x[task.support_y == c].mean(0) for c in range(5)])
        assert answer == (means - image).square().sum((1, 2, 3)).argmin()


def test_city_block_distance_is_the_sum_of_differences(chapter):
    generator = torch.Generator().manual_seed(0)
    x, query = (torch.rand(n, 3, 4, 4, generator=generator) for n in (5, 6))
    mine = chapter.city_block(x, torch.arange(5), query)
    right = -(query[:, None] - x).abs().sum((2, 3, 4))
    torch.testing.assert_close(mine, right)


def test_sgd_starts_from_a_network_of_its_own(chapter):
    space = book_tools.run(CHAPTER, descend=lambda *given: given)
    body, x, y, query, steps = space["sgd"](7)(*"xyq")
    assert (x, y, query, steps) == ("x", "y", "q", 7) and isinstance(body, nn.Sequential)


def test_training_depends_on_its_seed_alone():
    space = book_tools.run(CHAPTER, plant=("steps=200", "steps=2"), known=noise_source(classes=12))
    first, again, other = (space["trained"](seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


@pytest.mark.parametrize(("classes", "ways"), [(1, 2), (2, 2), (5, 4), (7, 3), (6, 6)])
def test_duplicates_are_counted(chapter, classes, ways):
    counted = chapter.count(itertools.product(range(classes), repeat=ways), ways)
    assert counted == pytest.approx(chapter.odds_and_ceiling(classes, ways))


def test_one_by_one_shows_each_image_alone(chapter):
    """To a learner that answers how many images it is shown together."""
    learner = SimpleNamespace(adapt=lambda x, y: lambda q: torch.full((len(q), 1), float(len(q))))
    predict = chapter.OneByOne(learner).adapt(torch.zeros(1), torch.zeros(1))
    assert predict(torch.zeros(4, 1)).flatten().tolist() == [1.0] * 4


# The comparisons with an error planted


def run(*cells, plant=None):
    """Cells that compare; the sentences of the last cell are checked where the chapter runs."""
    made = book_tools.code_cells(CHAPTER)["checked"]
    compared = made[: made.index("assert ")]
    space = book_tools.run(CHAPTER, *(c for c in cells if c != "checked"), plant=plant)
    if "checked" in cells:
        whole = "\n".join(book_tools.code_cells(CHAPTER).values())
        assert plant is None or whole.count(plant[0]) == 1
        exec(compared if plant is None else compared.replace(*plant), space)
    return space


COMPARING = {
    "27 answer sheets": ["answer-sheets"],
    "task 0": ["checked"],
    "task 7": ["checked"],
    "task 1000000000": ["checked"],
    "logits": ["checked"],
    "linear head": ["checked"],
    "4 classes": ["checked"],
}


def test_every_comparison_passes_and_is_known(capsys):
    printed = book_tools.printed_by(run, COMPARING, capsys)
    assert book_tools.compared(printed) == set(COMPARING)


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("27 answer sheets", ("(1 / 3) * (2 / 3) / 3", "(1 / 3) * (2 / 3)")),
        ("27 answer sheets", ("(sheets == [0, 1, 2])", "(sheets == [0, 1, 1])[:-1]")),
        ("linear head", ("points @ (2 * means).T", "points @ means.T")),
        ("task 0", ("draws.pop(0)", "draws.pop()")),
        ("task 0", ("j = i + draw % (n - i)", "j = draw % n")),
        ("task 7", ("np.array([seed, index]", "np.array([seed, 0]")),
        ("task 1000000000", ("np.array([seed, index]", "np.array([seed, index % 2**16]")),
        ("logits", ("features[support_y == c].mean(0)", "features[support_y == c][0]")),
        ("logits", ("torch.stack(means)).square()", "torch.stack(means))")),
        ("4 classes", ("1 - i / classes for i in", "1 - (i + 1) / classes for i in")),
        ("4 classes", ("(1 - 1 / classes) ** ways)", "(1 - 1 / classes) ** (ways - 1))")),
    ],
)
def test_a_planted_error_fails_its_comparison(name, plant):
    with pytest.raises(AssertionError, match=rf"{name}(:|\[)"):
        run(*COMPARING[name], plant=plant)


def test_the_schematic_shows_classes_that_are_tested_on():
    cell = book_tools.code_cells(CHAPTER)["fig-episode"]
    names = cell[cell.index('names = "') :].split("\n")[0].replace("names = ", "").split(", ")
    assert {name.strip('"') for name in names} <= set(tasks.emoji("test").class_names)
    assert models.Conv4(3, 5, image_size=32).head.in_features == 128  # as the chapter's own body
