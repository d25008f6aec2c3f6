"""Chapter 7's own code: on other inputs than the chapter shows, and with errors planted."""

import copy
import re
from types import SimpleNamespace

import book_tools
import pytest
import torch
import torch.nn.functional as F

from metalearn_tut import federated as fed
from metalearn_tut import gating, models, tasks
from metalearn_tut.evaluation import cost
from metalearn_tut.evaluation.accuracy import evaluate

CHAPTER = "07_metagater_federated_gates"


@pytest.fixture(scope="module")
def nodes():
    """The chapter's nodes."""
    return fed.by_classes(tasks.glyphs("train"), 50, 4, local_labels=True)


@pytest.fixture(scope="module")
def gater():
    """Narrow and untrained, with gates of which some are open."""
    torch.manual_seed(3)
    network = gating.ChannelGatedConv4(models.Conv4(1, 4, width=5, norm="support"), open_bias=0.0)
    return gating.MetaGater(network, 0.4, 3.0, sparsity=0.5, target=None)


@pytest.fixture(scope="module")
def chapter(nodes, gater):
    toy = SimpleNamespace(**book_tools.run(CHAPTER)).make_toy()
    given = {"nodes": nodes, "toy": toy, "gater": gater, "gated": gater.model}
    return SimpleNamespace(**book_tools.run(CHAPTER, **given))


@pytest.fixture
def task(nodes):
    return nodes.unseen[0].sampler(support=8, query=6, seed=2)[1]


# The functions against the modules, or on paper


@pytest.mark.parametrize(("alpha", "beta", "T0"), [(0.1, 0.1, 1), (0.3, 0.2, 4), (0.0, 0.5, 2)])
def test_a_local_step_shrinks_the_distance(chapter, alpha, beta, T0):
    for theta, a, h in ((0.0, 2.0, 1.0), (5.0, -1.0, 2.5)):
        found = chapter.local_steps(torch.tensor(theta).double(), a, h, T0, alpha, beta)
        r = 1 - beta * h * (1 - alpha * h) ** 2
        assert found.item() == pytest.approx(a + r**T0 * (theta - a), rel=1e-12)


def test_rounds_average_by_images_and_end_where_they_stand_still(chapter):
    clients = [(1.0, 2.0, 5), (-2.0, 0.5, 15), (7.0, 1.0, 0)]
    theta = torch.tensor(3.0).double()
    ends = [chapter.local_steps(theta, a, h, 2).item() for a, h, _ in clients]
    found = chapter.one_round(theta, clients, 2).item()
    assert found == pytest.approx(0.25 * ends[0] + 0.75 * ends[1], rel=1e-12)
    end = chapter.rounds_end(clients, 2)
    assert chapter.one_round(end, clients, 2).item() == pytest.approx(end.item(), abs=1e-12)


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


def test_a_priced_loss_is_the_cross_entropy_and_the_share_of_open_filters(chapter, task):
    toy, task = chapter.toy, chapter.in_double(task)
    params = dict(toy.named_parameters())
    logits, masks = toy.run(task.support_x)
    assert chapter.Watched(toy)(task.support_x)[0].equal(logits)
    loss = F.cross_entropy(logits, task.support_y)
    found = chapter.priced_loss(params, task.support_x, task.support_y, price=0.7)
    torch.testing.assert_close(found, loss + 0.7 * gating.open_share(masks))
    shut = chapter.priced_loss(
        params, task.support_x, task.support_y, price=5.0, gate_mode="closed"
    )
    free = chapter.priced_loss(params, task.support_x, task.support_y, gate_mode="closed")
    torch.testing.assert_close(shut, free)


def test_a_step_moves_its_part_only(chapter, task):
    task = chapter.in_double(task)
    params = dict(chapter.toy.named_parameters())
    part = ["head.weight", "gates.1.outer.bias"]
    found = chapter.step(params, part, 0.3, task.support_x, task.support_y, gate_mode="soft")
    loss = F.cross_entropy(chapter.toy(task.support_x, gate_mode="soft"), task.support_y)
    slopes = torch.autograd.grad(loss, [params[name] for name in part])
    for name, slope in zip(part, slopes, strict=True):
        torch.testing.assert_close(found[name], params[name] - 0.3 * slope)
    moved = {n for n in params if not torch.equal(found[n], params[n])}
    assert moved == set(part)
    assert chapter.distance(found, params, gates=True) == pytest.approx(0.3 * slopes[1].norm())
    assert chapter.distance(found, params, gates=False) == pytest.approx(0.3 * slopes[0].norm())


@pytest.mark.parametrize(("alpha", "gamma", "price"), [(0.2, 1.0, 0.0), (0.7, 9.0, 2.0)])
def test_two_stages_and_their_outcome_are_metagaters(chapter, task, alpha, gamma, price):
    toy, double = chapter.toy, chapter.in_double(task)
    assert torch.equal(double.support_x * 255, task.support_x.double())
    params = dict(toy.named_parameters())
    learner = gating.MetaGater(toy, alpha, gamma, sparsity=price, target=None, seed=5)
    noise = learner.drawn(8)["noise"]
    found = chapter.two_stages(params, double, noise, alpha, gamma, price)
    right = learner.adapt(double.support_x, double.support_y).params
    assert found.keys() == right.keys()
    for name in right:
        torch.testing.assert_close(found[name], right[name], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("gate_mode", ["soft", "learned"])
def test_F_is_metagaters(chapter, task, gate_mode):
    space = book_tools.run(CHAPTER, toy=chapter.toy, task=chapter.in_double(task))
    batch = tasks.TaskBatch.stack([space["task"]])
    torch.manual_seed(8)
    space["noises"] = chapter.toy.noise(8), chapter.toy.noise(6)
    found = space["F_of"](dict(chapter.toy.named_parameters()), gate_mode)
    settings = {"sparsity": 0.5, "target": None, "relaxed": gate_mode == "soft"}
    learner = gating.MetaGater(chapter.toy, 0.4, 5.0, **settings)
    torch.manual_seed(8)
    torch.testing.assert_close(found, learner.task_losses(batch).losses[0])


def test_the_toy_is_the_same_every_time_and_off_the_kinks(chapter):
    first, second = (chapter.make_toy().state_dict() for _ in range(2))
    assert all(torch.equal(p, second[name]) for name, p in first.items())
    assert all(first[f"blocks.{i}.conv.bias"].abs().min() > 0 for i in range(4))
    assert first["head.weight"].dtype == torch.float64


def test_the_federation_is_of_the_nodes_that_train(chapter, nodes):
    run = chapter.federation(fed.fed_avg(chapter.conv4(), 0.1), local_steps=7)
    assert run.nodes == nodes.train and len(run.clients(0)) == 8
    assert (run.rounds, run.local_steps, run.support, run.query) == (30, 7, 12, 12)
    assert len(nodes.train) == 40 and len(nodes.unseen) == 10
    assert not {c for n in nodes.train for c in n.classes} & {
        c for n in nodes.unseen for c in n.classes
    }


def test_networks_begin_alike(chapter):
    first, second = chapter.conv4(), chapter.conv4()
    assert all(map(torch.equal, first.parameters(), second.parameters()))


def test_accuracies_are_sorted_by_node(chapter, nodes):
    learner = fed.fed_avg(chapter.conv4(), 0.4)
    group = nodes.unseen[:2]
    found = chapter.by_node(learner, group, steps=1)
    for i, node in enumerate(group):
        right = evaluate(learner, node.sampler(12, 12, seed=5), 3, steps=1).values
        torch.testing.assert_close(found[:, i], right)


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("T0", [1, 2])
def test_rounds_by_hand_are_the_modules(chapter, T0):
    run = chapter.toy_run(T0)
    assert len(run.nodes) == 40 and len(run.clients(0)) == 4
    object.__setattr__(run, "nodes", [cut(node, i) for i, node in enumerate(run.nodes)])
    before = fed.state_of(run.learner)
    mine, central = chapter.round_by_hand(run), chapter.central_step(run)
    assert all(torch.equal(p, before[n]) for n, p in fed.state_of(run.learner).items())
    fed.run_rounds(run)
    for name, p in fed.state_of(run.learner).items():
        torch.testing.assert_close(mine[name], p, rtol=1e-11, atol=1e-13)
    gap = max((mine[name] - central[name]).abs().max() for name in mine)
    assert gap < 1e-13 if T0 == 1 else gap > 1e-6


def cut(node, i):
    """The node with other numbers of images, so that weights differ."""
    positions = tuple(p[: 12 + i % 5] for p in node.positions)
    return fed.Node(node.number, node.source, node.classes, positions, node.local_labels)


def test_masks_and_work_are_those_of_the_adapted_network(chapter, gater, task):
    network, masks = chapter.masks_on(gater, task)
    predict = gater.adapt(task.support_x, task.support_y)
    x = tasks.as_float(task.query_x)
    torch.testing.assert_close(network(x), predict(task.query_x))
    for mask, right in zip(masks, predict.deploy().masks(x), strict=True):
        assert torch.equal(mask, right) and not mask.requires_grad
    active = gating.active_macs(network, masks, (1, 28, 28)).double().mean()
    whole = cost.macs(models.Conv4(1, 4, width=5), (1, 28, 28))
    assert chapter.work(gater, task).item() == pytest.approx(active.item() / whole)


def test_a_rounds_record_has_the_work_on_the_first_node(chapter, nodes, gater):
    first = nodes.train[0].sampler(12, 12, seed=5)[0]
    assert chapter.watch_gates(7) == {"work": chapter.work(gater, first).item()}


def test_arms_have_the_stages_that_they_are_asked_for(chapter, gater, task):
    start = gater.meta_parameters()
    for stages in ((), ("backbone",), ("gates",), ("backbone", "gates")):
        end = chapter.after(*stages).adapt(task.support_x, task.support_y).params
        moved = {n for n in start if not torch.equal(end[n], start[n])}
        assert any(n.startswith("gates.") for n in moved) == ("gates" in stages)
        assert any(not n.startswith("gates.") for n in moved) == ("backbone" in stages)
        if len(stages) == 2:
            right = gater.adapt(task.support_x, task.support_y).params
            assert all(torch.equal(end[n], right[n]) for n in right)


def test_opened_is_the_share_of_a_classes_images(chapter, gater, nodes):
    task = nodes.unseen[1].sampler(12, 20, seed=1)[0]
    found = chapter.opened(gater, task)
    assert found.shape == (4, 20)
    _, masks = chapter.masks_on(gater, task)
    for c in range(4):
        of_class = [mask[i] for mask in masks[2:3] for i in range(20) if task.query_y[i] == c]
        torch.testing.assert_close(found[c, 10:15], sum(of_class) / len(of_class))


def test_masks_by_lot_open_as_many_filters(chapter, gater, task):
    network, masks = chapter.masks_on(gater, task)
    drawn = chapter.by_lot(network, masks, seed=0)
    for mask, own in zip(drawn, masks, strict=True):
        assert mask.shape == own.shape[1:] and set(mask.tolist()) <= {0.0, 1.0}
        assert mask.sum() == own.sum(1).mean().round()
    others = [chapter.by_lot(network, masks, seed=s) for s in range(1, 6)]
    assert any(not torch.equal(torch.cat(drawn), torch.cat(other)) for other in others)


def test_right_is_the_accuracy(chapter, gater, task):
    network, masks = chapter.masks_on(gater, task)
    predict = gater.adapt(task.support_x, task.support_y)
    share = (predict(task.query_x).argmax(1) == task.query_y).float().mean()
    assert chapter.right(network, task) == share
    assert chapter.right(network, task, gate_mode=masks) == share


def test_the_solutions_are_the_checked_ones(chapter):
    """Beside the checks: another input, by other means."""
    clients = [(1.0, 2.0, 5), (-2.0, 0.5, 15)]
    a, h, sizes = (torch.tensor(column).double() for column in zip(*clients, strict=True))
    right = chapter.rounds_end(clients, 3).item()
    assert chapter.end_of_rounds(a, h, sizes, 3, 0.1, 0.1).item() == pytest.approx(right)
    rate, added = chapter.both_rates(torch.zeros(1).double())
    assert rate.item() == 0.5 and (1 - (-added.exp()).exp()).item() == pytest.approx(0.5)
    masks = [torch.tensor([[1.0, 0.0]]), torch.ones(1, 3)]
    assert chapter.work_of(masks, (4, 2), 1, 2).item() == 9 * 16 + 9 * 4 * 3 + 2 * 3 + 2 * 5


# What is shown and not run


def test_the_function_for_flower_is_a_federation():
    """The text's own code, run; and the settings are those that LocalFlower takes."""
    import inspect
    import json

    import nbformat

    from metalearn_tut.federated.flower.app import DEFAULTS
    from metalearn_tut.federated.flower.local import LocalFlower

    notebook = nbformat.read(book_tools.BOOK / f"{CHAPTER}.ipynb", as_version=4)
    text = next(cell.source for cell in notebook.cells if cell.id == "flower")
    module, use = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    space = {}
    exec(module, space)
    federation = space["experiment"](nodes=10, rounds=1)
    assert len(federation.nodes) == 8 and isinstance(federation.learner, gating.MetaGater)
    exec(use.partition("with ")[0], space)
    assert set(space["config"]) <= set(DEFAULTS)
    assert len(space["experiment"](**json.loads(space["config"]["arguments"])).nodes) == 8
    call = re.search(r"LocalFlower\((.*)\) as flower", use)[1]
    taken = inspect.signature(LocalFlower).bind("folder", clients=8, config={}).arguments
    assert re.findall(r"(\w+)=", call) == [name for name in taken if name != "folder"]
    inspect.signature(LocalFlower.run).bind(None, limit=3600)


# The comparisons with an error planted


@pytest.fixture(scope="module")
def ready(nodes):
    """What the comparing cells find, trained for nothing or for one round."""
    space = book_tools.run(CHAPTER, nodes=nodes)
    plain = fed.per_fed_avg(space["conv4"](), 0.4)
    network = gating.ChannelGatedConv4(space["conv4"](), open_bias=0.0)
    run = space["federation"](copy.deepcopy(plain), rounds=1)
    return {
        "nodes": nodes,
        "plain": plain,
        "gater": gating.MetaGater(network, 0.4, 3.0, sparsity=0.3, target=None),
        "records": {"Per-FedAvg": fed.run_rounds(run)},
        "federation": lambda learner, **how: space["federation"](learner, **{"rounds": 1} | how),
        "new": fed.Across(nodes.unseen, 12, 12, seed=5),
    }


STAGES = ["stages-run", "compare-stages"]
HAND, DRIFT = ["by-hand-run"], ["drift-run"]
COMPARING = {
    **{f"{name} of {T0}": HAND for name in ("a round", "end of rounds") for T0 in (1, 20)},
    **{f"drift at {T0}": DRIFT for T0 in (1, 2, 5, 10, 50)},
    "no drift at 1": DRIFT,
    **{f"{name} at {u}": ["gate-run"] for name in ("rate", "one Gumbel") for u in (-2, 0, 1)},
    "straight through": ["gate-run", "gate-slope"],
    "gates' bytes": ["train-gater"],
    "both stages": STAGES,
    "outer slope": STAGES,
    "meta-gradient": STAGES,
    "central step": ["compare-rounds"],
    "round of 1": ["compare-rounds"],
    "round of 3": ["compare-rounds"],
    "a fifth": ["wrong-weights"],
    "skipping": ["help-time-run"],
}


def run(ready, *cells, plant=None):
    given = {**ready, "plain": copy.deepcopy(ready["plain"])}
    return book_tools.run(CHAPTER, *cells, plant=plant, **given)


@pytest.mark.slow
def test_every_comparison_passes_and_is_known(ready, capsys):
    printed = book_tools.printed_by(lambda *cells: run(ready, *cells), COMPARING, capsys)
    assert book_tools.compared(printed) == set(COMPARING)


@pytest.mark.slow(quick=3)
@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("a round of 1", ("theta = theta - beta * slope", "theta = theta + beta * slope")),
        ("a round of 20", ("for _ in range(T0):\n        theta = theta.detach()",
                           "for _ in range(1):\n        theta = theta.detach()")),
        ("a round of 1", ("return sum(n / total * end for n, end in ends)",
                          "return sum(end / 2 for n, end in ends)")),
        ("end of rounds of 1", ("while abs(theta - before) > 1e-13:", "while before > 9:")),
        ("drift at 1", ("weights = [10 * (1 - r[0] ** T0)", "weights = [10 * r[0] ** T0")),
        ("drift at 2", ("30 * (1 - r[1] ** T0)]", "30 * (1 - r[1])]")),
        ("no drift at 1", ("pulls = [images * h * (1 - 0.1 * h) ** 2 for", "pulls = [images for")),
        ("rate at -2", ("(even / (1 - even)).log()", "(even / (2 - even)).log()")),
        ("one Gumbel at -2", ("wrong = 1 - (-u.exp()).exp()\n    nb",
                              "wrong = u.sigmoid()\n    nb")),
        ("straight through", ("soft = ((u + noise) / tau).sigmoid()", "soft = (u + noise) * tau")),
        ("straight through", ("(((u + e + noise) * 1.5)", "(((u + e + noise) * 1.0)")),
        ("gates' bytes", ("extra = 4 * 8 *", "extra = 4 *")),
        ("both stages", ('alpha, *data, gate_mode="open")', "alpha, *data, noise=noise)")),
        ("both stages", ("step(params, gates, gamma,", "step(params, gates, 2 * gamma,")),
        ("outer slope", ("moving.values(), create_graph=True",
                         "moving.values(), retain_graph=True")),
        ("outer slope", ("nn.init.normal_(block.conv.bias, std=0.1)", "block.conv.bias.data *= 0")),
        ("meta-gradient", ("torch.manual_seed(1)  # for the same noise",
                           "torch.manual_seed(2)  # for the same noise")),
        ("meta-gradient", ("toy, relaxed=True, **same",
                           "toy, detach_stage1=True, relaxed=True, **same")),
        ("central step", ("new[name] += run.nodes[c].size / total * p", "new[name] += p")),
        ("central step", ("objective = objective + run.nodes[c].size / total * loss",
                          "objective = objective + loss")),
        ("central step", ("p.data -= run.outer_lr * slope", "p.data -= slope / 3")),
        ("round of 1", ("    fed.run_rounds(run)\n    nb", "    nb")),
        ("round of 3", ("batch = run.samplers[c].batch(number, 1)",
                        "batch = run.samplers[c].batch(0, 1)")),
        ("a fifth", ("fifth = {name: 0.2 * p", "fifth = {name: p")),
        ("skipping", ("gating.skip_each(network, x)", "gating.skip_each(dense_too(network), x)")),
    ],
)  # fmt: skip
def test_a_planted_error_fails_its_comparison(ready, name, plant):
    def open_all(network):
        other = copy.deepcopy(network)
        for gate in other.gates:
            gate.outer.bias.data += 9
        return other

    ready = {**ready, "dense_too": open_all}
    with pytest.raises(AssertionError, match=f"^{re.escape(name)}"):
        run(ready, *COMPARING[name], plant=plant)
