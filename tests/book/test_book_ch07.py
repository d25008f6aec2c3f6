"""Chapter 7's own code: on other inputs than the chapter shows, and with errors planted."""

import re
from types import SimpleNamespace

import book_tools
import pytest
import torch
import torch.nn.functional as F

from metalearn_tut import federated as fed
from metalearn_tut import gating, models, tasks
from metalearn_tut.evaluation.accuracy import evaluate

CHAPTER = "07_metagater_federated_gates"


@pytest.fixture(scope="module")
def nodes():
    """The chapter's nodes."""
    dealt = {"unseen": 1 / 3, "local_labels": True}
    return fed.by_classes(tasks.glyphs("train"), 60, 4, **dealt)


@pytest.fixture(scope="module")
def gater():
    """Narrow and untrained, with gates of which some are open."""
    torch.manual_seed(3)
    network = gating.ChannelGatedConv4(models.Conv4(1, 4, width=5, norm="support"), open_bias=0.0)
    return gating.MetaGater(network, 0.4, 3.0, sparsity=0.5, target=None)


@pytest.fixture(scope="module")
def chapter(nodes):
    return SimpleNamespace(**book_tools.run(CHAPTER, nodes=nodes, SEED=0))


@pytest.fixture
def task(nodes):
    return nodes.unseen[0].sampler(support=8, query=6, seed=2)[1]


def cut(node, i):
    """The node with other numbers of images, so that weights differ."""
    positions = tuple(p[: 12 + i % 5] for p in node.positions)
    return fed.Node(node.number, node.source, node.classes, positions, node.local_labels)


# The functions against the modules, or on paper


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("steps", [1, 3])
def test_a_round_is_the_modules_with_nodes_of_any_size(chapter, nodes, steps):
    learner = fed.per_fed_avg(chapter.make_toy().ungated(), inner_lr=0.3)
    some = [cut(node, i) for i, node in enumerate(nodes.train[:4])]
    plan = {"fraction": 1.0, "local_steps": steps, "outer_lr": 0.1}
    run = fed.Federation(learner, some, 1, 6, 7, **plan)
    asked = [
        (node.size, [chapter.images_of(t) for t in sampler.batch(0, steps)])
        for node, sampler in zip(some, run.samplers, strict=True)
    ]
    assert len({size for size, _ in asked}) == 4
    start = {n: p.detach().clone() for n, p in learner.model.named_parameters()}
    mine = chapter.one_round(learner.model, start, asked, 0.3, 0.1)
    fed.run_rounds(run)
    for name, p in fed.state_of(learner).items():
        torch.testing.assert_close(mine[name], p, rtol=1e-11, atol=1e-13)
        assert not mine[name].requires_grad


def test_a_visit_of_no_step_changes_nothing(chapter):
    net = chapter.make_toy().ungated()
    start = dict(net.named_parameters())
    assert chapter.visit(net, start, [], 0.4, 0.2) is start


def test_a_round_of_a_step_is_a_step_down_the_mean_loss(chapter, nodes):
    """As if the server had all images; by hand, on a network without gates."""
    net = chapter.make_toy().ungated()
    own = [cut(node, i) for i, node in enumerate(nodes.train[:3])]
    asked = [(n.size, [chapter.images_of(n.sampler(6, 7)[0])]) for n in own]
    start = dict(net.named_parameters())
    mine = chapter.one_round(net, start, asked, 0.4, 0.2)
    total = 0.0
    for size, [(x, y, query_x, query_y)] in asked:
        end = chapter.after_step(net, start, x, y, 0.4)
        loss = F.cross_entropy(torch.func.functional_call(net, end, (query_x,)), query_y)
        total = total + size / sum(n for n, _ in asked) * loss
    slopes = torch.autograd.grad(total, start.values())
    for (name, p), slope in zip(start.items(), slopes, strict=True):
        torch.testing.assert_close(mine[name], p - 0.2 * slope, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("beta", "steps"), [(0.1, 1), (0.2, 4), (0.05, 40)])
def test_rounds_end_where_they_stand_still(chapter, beta, steps):
    pair = [(1.0, 2.0, 0.25), (-2.0, 0.5, 0.75)]
    end = chapter.rounds_end(pair, steps, beta)
    after = sum(w * (a + (1 - beta * h) ** steps * (end - a)) for a, h, w in pair)
    assert after == pytest.approx(end, abs=1e-12)


def test_a_hard_gate_is_the_modules(chapter):
    g = torch.Generator().manual_seed(0)
    u = torch.randn(50, generator=g).double().requires_grad_()
    noise = torch.randn(50, generator=g).double()
    for tau in (2 / 3, 0.2):
        mine, right = chapter.hard_gate(u, noise, tau), gating.channel_mask(u, noise, tau=tau)
        assert torch.equal(mine, right) and set(mine.tolist()) == {0.0, 1.0}
        slopes = [torch.autograd.grad(value.sum(), u, create_graph=True)[0]
                  for value in (mine, right)]  # fmt: skip
        torch.testing.assert_close(*slopes)
        seconds = [torch.autograd.grad(slope.sum(), u)[0] for slope in slopes]
        torch.testing.assert_close(*seconds)


@pytest.mark.parametrize(("alpha", "gamma", "price"), [(0.2, 1.0, 0.0), (0.7, 9.0, 2.0)])
def test_two_stages_are_metagaters(chapter, task, alpha, gamma, price):
    toy, logged = chapter.make_toy(), chapter.make_toy()
    logged.forward = logged.run
    x, y, *_ = chapter.images_of(task)
    params = dict(toy.named_parameters())
    learner = gating.MetaGater(toy, alpha, gamma, sparsity=price, target=None, seed=5)
    noise = learner.drawn(8)["noise"]

    def loss(p, gates):
        if gates == "open":
            return chapter.priced(logged, p, x, y, 0.0, gate_mode="open")
        return chapter.priced(logged, p, x, y, price, noise=noise)

    found = chapter.two_stages(params, loss, alpha, gamma)
    right = learner.adapt(x, y).params
    assert found.keys() == right.keys()
    for name in right:
        torch.testing.assert_close(found[name], right[name], rtol=1e-11, atol=1e-14)


def test_a_price_is_that_of_the_share_of_open_filters(chapter, task):
    toy = chapter.make_toy()
    logits, masks = toy.run(tasks.as_float(task.support_x, torch.float64))
    x, y, *_ = chapter.images_of(task)
    toy.forward = toy.run
    found = chapter.priced(toy, dict(toy.named_parameters()), x, y, 0.7)
    loss = F.cross_entropy(logits, task.support_y)
    share = torch.stack([mask.mean() for mask in masks]).mean()
    torch.testing.assert_close(found, loss + 0.7 * share)


def test_the_meta_gradient_is_a_slope(chapter, task):
    """Along a random direction, by finite differences, with relaxed gates."""
    toy = chapter.make_toy()
    toy.forward = toy.run
    torch.manual_seed(8)
    data, noises = chapter.images_of(task), (toy.noise(8), toy.noise(6))
    params = dict(toy.named_parameters())
    F_of = lambda p: chapter.F_of(toy, p, data, noises, "soft")[1]  # noqa: E731
    slopes = torch.autograd.grad(F_of(params), params.values())
    along = {name: torch.randn_like(p) for name, p in params.items()}
    total = sum((s * d).sum() for s, d in zip(slopes, along.values(), strict=True))
    moved = [F_of({n: p + e * along[n] for n, p in params.items()}) for e in (1e-6, -1e-6)]
    torch.testing.assert_close(total, (moved[0] - moved[1]) / 2e-6, rtol=1e-5, atol=0)


def test_the_toy_is_the_same_every_time_and_off_the_kinks(chapter):
    first, second = (chapter.make_toy().state_dict() for _ in range(2))
    assert all(torch.equal(p, second[name]) for name, p in first.items())
    assert all(first[f"blocks.{i}.conv.bias"].abs().min() > 0 for i in range(4))
    assert first["head.weight"].dtype == torch.float64


def test_training_is_of_the_nodes_that_train(chapter, nodes, monkeypatch):
    runs = []
    monkeypatch.setattr(fed, "run_rounds", runs.append)
    learner = fed.fed_avg(chapter.conv4(), 0.1)
    assert chapter.train(learner, gate_outer_lr=6.0) is learner
    (run,) = runs
    assert run.nodes == nodes.train and len(run.clients(0)) == 8
    assert (run.rounds, run.local_steps, run.support, run.query) == (30, 2, 12, 12)
    assert run.gate_outer_lr == 6.0
    assert len(nodes.train) == 40 and len(nodes.unseen) == 20
    assert not {c for n in nodes.train for c in n.classes} & {
        c for n in nodes.unseen for c in n.classes
    }


def test_networks_begin_alike(chapter):
    first, second = chapter.conv4(), chapter.conv4()
    assert all(map(torch.equal, first.parameters(), second.parameters()))


def test_accuracies_are_sorted_by_node(nodes):
    few = fed.Partition(nodes.train, nodes.unseen[:2])
    chapter = SimpleNamespace(**book_tools.run(CHAPTER, nodes=few, SEED=0))
    learner = fed.fed_avg(chapter.conv4(), 0.4)
    found = chapter.by_node(learner, steps=1)
    for i, node in enumerate(few.unseen):
        right = evaluate(learner, node.sampler(12, 12, seed=5), 3, steps=1).mean
        assert found[i].item() == pytest.approx(right)


def test_an_interval_is_students(chapter):
    values = torch.arange(20.0)
    mean, half = chapter.over_nodes(values)
    assert mean == 9.5 and half.item() == pytest.approx(2.093 * 35**0.5 / 20**0.5)


def test_masks_are_those_of_the_adapted_network(chapter, gater, task):
    network, masks = chapter.network_of(gater, task)
    predict = gater.adapt(task.support_x, task.support_y)
    x = tasks.as_float(task.query_x)
    torch.testing.assert_close(network(x), predict(task.query_x))
    for mask, right in zip(masks, predict.deploy().masks(x), strict=True):
        assert torch.equal(mask, right) and not mask.requires_grad
    share = (predict(task.query_x).argmax(1) == task.query_y).float().mean()
    assert chapter.right(network, task) == share
    assert chapter.right(network, task, gate_mode=masks) == share


def test_masks_by_lot_open_as_many_filters(chapter, gater, task):
    _, masks = chapter.network_of(gater, task)
    drawn = chapter.by_lot(masks, seed=0)
    for mask, own in zip(drawn, masks, strict=True):
        assert mask.shape == own.shape[1:] and set(mask.tolist()) <= {0.0, 1.0}
        assert mask.sum() == own.sum(1).mean().round()
    others = [chapter.by_lot(masks, seed=s) for s in range(1, 6)]
    assert any(not torch.equal(torch.cat(drawn), torch.cat(other)) for other in others)


def test_one_mask_is_the_majority_of_the_support_images(chapter, gater, task):
    network, _ = chapter.network_of(gater, task)
    seen = network.masks(tasks.as_float(task.support_x))
    for mask, own in zip(chapter.one_mask(network, task), seen, strict=True):
        votes = own.sum(0)
        assert (mask[votes > 4] == 1).all() and (mask[votes < 4] == 0).all()


def test_the_solutions_are_the_checked_ones(chapter):
    """Beside the checks: another input, by other means."""
    flat = chapter.end_of_rounds(
        *(torch.tensor(v).double() for v in ([1.0, -2.0], [2.0, 0.5], [5, 15])), 3, 0.0, 0.1
    )
    right = chapter.rounds_end([(1.0, 2.0, 0.25), (-2.0, 0.5, 0.75)], 3, 0.1)
    assert flat.item() == pytest.approx(right)
    masks = [torch.tensor([[1.0, 0.0]]), torch.ones(1, 3)]
    assert chapter.work_of(masks, (4, 2), 1, 2).item() == 9 * 16 + 9 * 4 * 3 + 2 * 3 + 2 * 5


# The comparisons with an error planted


def run(nodes, plant=None):
    """The cells that compare; sentences of the last cell are checked where the chapter runs."""
    given = {"nodes": fed.Partition(nodes.train[:20], nodes.unseen), "SEED": 0}
    space = book_tools.run(CHAPTER, "drift", plant=plant, **given)
    plain = fed.per_fed_avg(space["conv4"](), 0.4)
    space |= {"learners": {"Per-FedAvg": plain}, "several": []}
    averaging = book_tools.code_cells(CHAPTER)["pitfalls-run"].partition("states = ")[0]
    checks = book_tools.code_cells(CHAPTER)["checked"].partition("\nassert ")[0]
    for source in (averaging, checks):
        exec(source if plant is None else source.replace(*plant), space)


NAMES = {
    *(f"end at {steps}" for steps in (1, 2, 3, 5, 8, 12, 20, 50)),
    *("one Gumbel", "gate", "both stages", "meta-gradient", "round of 1", "round of 3", "a fifth"),
}


@pytest.mark.slow
def test_every_comparison_passes_and_is_known(nodes, capsys):
    run(nodes)
    assert book_tools.compared(capsys.readouterr().out) == NAMES


@pytest.mark.slow(quick=3)
@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("end at 1", ("own -= beta * h * (own - a)", "own += beta * h * (own - a)")),
        ("end at 1", ("theta += share * own", "theta += own / 2")),
        ("end at 2", ("for _ in range(steps):\n                own", "for _ in range(1):\n"
                      "                own")),
        ("end at 1", ("while abs(theta - before) > 1e-13:", "while before > 9:")),
        ("one Gumbel", ("rate, 1 - 1 / torch.e, **how", "rate, 0.5, **how")),
        ("gate", ("gating.channel_mask(u, -noise)", "gating.channel_mask(u, noise)")),
        ("both stages", ('(gates, gamma, "learned")', '(gates, 2 * gamma, "learned")')),
        ("both stages", ('((body, alpha, "open"), ', '((body, alpha, "learned"), ')),
        ("meta-gradient", ("torch.manual_seed(1)  # for the same noise",
                           "torch.manual_seed(2)  # for the same noise")),
        ("meta-gradient", ("toy, relaxed=True, **same",
                           "toy, detach_stage1=True, relaxed=True, **same")),
        ("meta-gradient", ("net, end, *data[2:], price, **last",
                           "net, end, *data[:2], price, **last")),
        ("round of 1", ("    fed.run_rounds(a_round)\n", "    pass\n")),
        ("round of 1", ("average.get(name, 0) + size / total", "average.get(name, 0) + 1 / total")),
        ("round of 1", ("return {name: p - lr * slope for (name, p), slope in pairs}",
                        "return {name: p - lr * slope.detach() for (name, p), slope in pairs}")),
        ("round of 3", ("for x, y, query_x, query_y in draws:",
                        "for x, y, query_x, query_y in draws[:1]:")),
        ("a fifth", ("fifth = {name: 0.2 * p", "fifth = {name: p")),
        ("a fifth", ("sum(n.size for n in run.nodes)", "8 * run.nodes[0].size")),
    ],
)  # fmt: skip
def test_a_planted_error_fails_its_comparison(nodes, name, plant):
    with pytest.raises(AssertionError, match=rf"^{re.escape(name)}(:|\[)"):
        run(nodes, plant=plant)
