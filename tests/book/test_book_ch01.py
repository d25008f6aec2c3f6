"""Chapter 1's own code: on other inputs than the chapter shows, and with errors planted."""

import itertools
import math
import statistics
from functools import partial
from types import SimpleNamespace

import book_tools
import numpy as np
import pytest
import torch

from metalearn_tut import evaluation, models, tasks
from metalearn_tut.learners import protonet
from metalearn_tut.tasks.sampler import distinct

CHAPTER = "01_few_shot_tasks"


@pytest.fixture(scope="module")
def chapter():
    conv4 = partial(models.Conv4, in_channels=1, width=4, norm="support")
    return SimpleNamespace(**book_tools.run(CHAPTER, conv4=conv4))


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prototypes_and_logits_are_the_modules(chapter, dtype):
    generator = torch.Generator().manual_seed(3)
    labels = torch.tensor([2, 0, 1, 1, 2, 2, 0])  # unequal numbers, in any order
    features, queries = (torch.randn(n, 6, generator=generator, dtype=dtype) for n in (7, 4))
    means = chapter.class_means(features, labels)
    torch.testing.assert_close(means, protonet.prototypes(features, labels))
    logits = chapter.squared_distance_logits(queries, means)
    torch.testing.assert_close(logits, protonet.distance_logits(queries, means))


@pytest.mark.parametrize("n", [2, 7, 600])
def test_the_interval_is_the_modules_and_the_textbooks(chapter, n):
    values = torch.rand(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    mean, half = chapter.interval_by_hand(values.tolist())
    assert (mean, half) == pytest.approx(evaluation.interval(values), rel=1e-12)
    assert half == pytest.approx(1.96 * statistics.stdev(values.tolist()) / math.sqrt(n))


@pytest.mark.parametrize(("classes", "ways"), [(1, 2), (2, 2), (5, 4), (7, 3), (6, 6)])
def test_duplicates_are_counted(chapter, classes, ways):
    counted = chapter.count(itertools.product(range(classes), repeat=ways), ways)
    assert counted == pytest.approx(chapter.odds_and_ceiling(classes, ways))


@pytest.mark.parametrize("p", [1, 2])
def test_the_nearest_neighbor_is_the_nearest(chapter, p):
    generator = torch.Generator().manual_seed(0)
    support_x, query_x = (
        torch.randint(256, (n, 1, 3, 3), generator=generator, dtype=torch.uint8) for n in (6, 9)
    )
    support_y = torch.tensor([1, 0, 2, 2, 1, 0])
    scores = chapter.NearestNeighbor(p).adapt(support_x, support_y)(query_x)
    for query, score in zip(query_x.double(), scores, strict=True):
        distances = (support_x.double() - query).abs().pow(p).sum((1, 2, 3))
        assert score.argmax() == support_y[distances.argmin()]


def test_pretraining_depends_on_its_seed_alone(chapter):
    images = np.random.default_rng(0).integers(256, size=(30, 1, 28, 28), dtype=np.uint8)
    source = tasks.from_arrays(images, np.arange(30) % 3)
    first, again, other = (
        chapter.pretrain(source, seed, steps=3, batch_size=8).state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_one_by_one_shows_each_image_alone():
    """To a learner that answers how many images it is shown together."""
    learner = SimpleNamespace(adapt=lambda x, y: lambda q: torch.full((len(q), 1), float(len(q))))
    space = book_tools.run(CHAPTER, learner=learner)
    predict = space["OneByOne"]().adapt(torch.zeros(1), torch.zeros(1))
    assert predict(torch.zeros(4, 1)).flatten().tolist() == [1.0] * 4


def noise_source(seed, classes=8):
    rng = np.random.default_rng(seed)
    prints = rng.integers(256, size=(classes, 1, 1, 6, 6))
    images = (prints + rng.integers(-90, 90, size=(classes, 12, 1, 6, 6))).clip(0, 255)
    labels = np.arange(classes).repeat(12)
    return tasks.from_arrays(images.reshape(-1, 1, 6, 6).astype(np.uint8), labels)


FIVE_WAY = {"ways": 5, "shots": 1, "queries": 2}


@pytest.mark.slow
def test_the_gap_is_the_low_end_of_an_unpaired_interval(capsys):
    seen, unseen = noise_source(0), noise_source(1)
    space = book_tools.run(CHAPTER, seen=seen, unseen=unseen, five_way=FIVE_WAY)
    learner = space["NearestNeighbor"]()
    rows = [evaluation.evaluate(learner, x.sampler(**FIVE_WAY)).values for x in (seen, unseen)]
    a, b = (row.double().numpy() for row in rows)
    half = 1.96 * math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    assert space["gap"]("pixels", learner) == pytest.approx(a.mean() - b.mean() - half, rel=1e-6)
    assert capsys.readouterr().out.startswith("pixels, on seen")


def test_over_seeds_judges_each_learner_on_tasks_of_its_own():
    test = noise_source(2)
    space = book_tools.run(CHAPTER, test=test, five_way=FIVE_WAY)
    learners = [space["NearestNeighbor"](p) for p in (1, 2, 2)]
    found = space["over_seeds"](learners)
    assert found.shape == (3, 100)
    for s, learner in enumerate(learners):
        sampler = test.sampler(**FIVE_WAY, seed=100 + s)
        assert torch.equal(found[s], evaluation.evaluate(learner, sampler, 100).values)


def test_a_report_gives_mean_interval_and_seeds(capsys):
    a = torch.tensor([[0.5, 0.7], [0.9, 0.9], [0.2, 0.4]])
    b = torch.full((3, 2), 0.1)
    space = book_tools.run(CHAPTER, scores={"a": a, "b": b})
    half = 1.96 * statistics.stdev(a.flatten().tolist()) / math.sqrt(6)
    assert space["report"]("a", a) == pytest.approx(0.6 - half, rel=1e-6)
    assert space["against"]("a", "b") == pytest.approx(0.5 - half, rel=1e-6)
    assert capsys.readouterr().out.splitlines() == [
        f"a: 0.600 ± {half:.3f} (0.600, 0.900, 0.300)",
        f"a - b: 0.500 ± {half:.3f} (0.500, 0.800, 0.200)",
    ]


# The comparisons with an error planted


def run(*cells, plant=None):
    """Cells that compare, with small stand-ins for what earlier cells made."""
    numbers = torch.arange(300.0)
    sampler = tasks.from_arrays(numbers[:, None], numbers // 30).sampler(5, 1, 5)
    values = torch.rand(50, generator=torch.Generator().manual_seed(0))
    return book_tools.run(
        CHAPTER,
        *cells,
        plant=plant,
        test_tasks=sampler,
        pixels=SimpleNamespace(values=values),
        setting=dict(classes=12, per_class=20, ways=5, shots=2, queries=3),
        test=SimpleNamespace(groups=("Lao",) * 33),
    )


COMPARING = {
    "27 answer sheets": ["answer-sheets"],
    "linear head": ["prototypes"],
    "task 0": ["prototypes", "same-as-module"],
    "task 7": ["prototypes", "same-as-module"],
    "task 1000000000": ["prototypes", "same-as-module"],
    "prototypes": ["prototypes", "same-as-module"],
    "logits": ["prototypes", "same-as-module"],
    "interval": ["prototypes", "same-as-module"],
    "4 classes": ["duplicates"],
}


def test_every_comparison_passes_and_is_known(capsys):
    printed = book_tools.printed_by(run, COMPARING, capsys)
    assert book_tools.compared(printed) == set(COMPARING)


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("27 answer sheets", ("(1 / 3) * (2 / 3) / 3", "(1 / 3) * (2 / 3)")),
        ("27 answer sheets", ("(sheets == [0, 1, 2])", "(sheets == [0, 1, 1])[:-1]")),
        ("linear head", ("features @ (2 * means).T", "features @ means.T")),
        ("linear head", ("-((features[:, None, :]", "((features[:, None, :]")),
        ("task 0", ("draws.pop(0)", "draws.pop()")),
        ("task 0", ("j = i + draw % (n - i)", "j = draw % n")),
        ("task 7", ("np.array([seed, index]", "np.array([seed, 0]")),
        ("task 1000000000", ("np.array([seed, index]", "np.array([seed, index % 2**16]")),
        ("prototypes", ("features[labels == c].mean(dim=0)", "features[labels == c][0]")),
        ("logits", ("** 2).sum(dim=2)", "** 2).sum(dim=2) + 1")),  # no softmax sees this
        ("interval", ("for a in values) / (n - 1)", "for a in values) / n")),
        ("4 classes", ("1 - i / classes for i in", "1 - (i + 1) / classes for i in")),
        ("4 classes", ("(1 - 1 / classes) ** ways)", "(1 - 1 / classes) ** (ways - 1))")),
    ],
)  # fmt: skip
def test_a_planted_error_fails_its_comparison(name, plant):
    with pytest.raises(AssertionError, match=rf"{name}(:|\[)"):
        run(*COMPARING[name], plant=plant)
