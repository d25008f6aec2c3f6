"""MetaGater: identities G6, G8, G12 to G15, against the formulas written out and slopes."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from bilevel_cases import Louder, assert_same, easy_source
from channel_cases import gated, images, plain
from torch.func import functional_call

from metalearn_tut import MAML, bilevel, evaluate, gating, meta_train
from metalearn_tut.evaluation import cost
from metalearn_tut.gating import ChannelGatedConv4, MetaGater, open_share, skip_each
from metalearn_tut.models import Conv4
from metalearn_tut.tasks import Task, TaskBatch
from metalearn_tut.training import checkpoint

WAYS = 3


def tasks_of(n=1, support=6, query=5):
    """Random images of different brightness, n tasks."""

    def part(rows, seed):
        x = torch.stack([images(rows, seed=seed + i) for i in range(n)])
        return x, (torch.arange(rows) % WAYS).expand(n, -1)

    return TaskBatch(*part(support, 10), *part(query, 20))


def learner(norm="none", kind="conv4", noise_seed=0, **settings):
    settings = {"inner_lr": 0.2, "gate_lr": 0.3, "sparsity": 0.4, "target": None, **settings}
    return MetaGater(gated(kind, norm), **settings, seed=noise_seed)


def losses_and_gradients(one, batch, progress=1.0):
    torch.manual_seed(5)  # the gates' noise
    metas = one.meta_parameters()
    losses = one.task_losses(batch, progress).losses
    grads = torch.autograd.grad(losses.sum(), list(metas.values()))
    return losses.detach(), dict(zip(metas, grads, strict=True))


def written_out(
    one,
    task,
    *,
    stages=("backbone", "gates"),
    gated_backbone=False,
    relaxed=False,
    detach=False,
    penalty=lambda share: share,
    alpha=0.2,
    gamma=0.3,
    weight=0.4,
):
    """F of one task and its gradient, by the formulas."""
    model = one.model
    params = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    leaves, names = params, list(params)
    torch.manual_seed(5)
    sn, qn = model.noise(len(task.support_x)), model.noise(len(task.query_x))
    mode, support = "soft" if relaxed else "learned", model.norm == "support"

    def run(p, x, noise, mode, n_support=None):
        named = {f"m.{n}": q for n, q in p.items()}
        gating = {"gate_mode": mode, "noise": noise, "n_support": n_support}
        return functional_call(_Run(model), named, (x,), gating)

    for k, stage in enumerate(stages):
        group = [n for n in names if n.startswith("gates.") == (stage == "gates")]
        at = {n: p.view_as(p) for n, p in params.items()}  # partial derivatives, not total ones
        if detach and k:
            at = {n: p if n in group else p.detach().requires_grad_() for n, p in at.items()}
        here = mode if stage == "gates" or gated_backbone else "open"
        logits, masks = run(at, task.support_x, sn, here)
        value = F.cross_entropy(logits, task.support_y)
        if stage == "gates":
            value = value + weight * penalty(sum(m.mean() for m in masks) / len(masks))
        grads = torch.autograd.grad(
            value, [at[n] for n in group], create_graph=True, materialize_grads=True
        )
        lr = gamma if stage == "gates" else alpha
        new = {n: at[n] - lr * g for n, g in zip(group, grads, strict=True)}
        params = {**params, **new}
    if support:
        x = torch.cat([task.support_x, task.query_x])
        noise = [torch.cat(pair) for pair in zip(sn, qn, strict=True)]
        s = len(task.support_x)
        logits, masks = run(params, x, noise, mode, s)
        logits, masks = logits[s:], [m[s:] for m in masks]
    else:
        logits, masks = run(params, task.query_x, qn, mode)
    value = F.cross_entropy(logits, task.query_y)
    value = value + weight * penalty(sum(m.mean() for m in masks) / len(masks))
    grads = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
    return value.detach(), dict(zip(names, grads, strict=True))


class _Run(torch.nn.Module):
    def __init__(self, m):
        super().__init__()
        self.m = m

    def forward(self, x, **gating):
        return self.m.run(x, **gating)


CASES = [
    {},
    {"gated_backbone": True},
    {"detach": True},
    {"gated_backbone": True, "detach": True},
    {"stages": ("gates", "backbone")},
    {"stages": ("gates", "backbone"), "gated_backbone": True, "detach": True},
    {"stages": ("gates",)},
    {"stages": ("backbone",)},
    {"stages": ("backbone", "gates", "gates")},
    {"stages": ("backbone", "gates", "gates"), "detach": True},
]


def settings_of(case, relaxed=False):
    return {
        "stages": case.get("stages", ("backbone", "gates")),
        "backbone_gates": "learned" if case.get("gated_backbone") else "open",
        "detach_stage1": case.get("detach", False),
        "relaxed": relaxed,
    }


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_are_those_of_the_formulas(case):
    batch = tasks_of(2)
    one = learner(**settings_of(case))
    losses, grads = losses_and_gradients(one, TaskBatch.stack([batch[0]]))
    value, expected = written_out(one, batch[0], **case)
    torch.testing.assert_close(losses[0], value, rtol=1e-12, atol=0)
    assert_same(grads, expected)


@pytest.mark.parametrize("norm", ["batch", "support", "group"])
def test_and_with_every_norm(norm):
    batch, one = tasks_of(), learner(norm)
    losses, grads = losses_and_gradients(one, batch)
    value, expected = written_out(one, batch[0])
    torch.testing.assert_close(losses[0], value, rtol=1e-12, atol=0)
    assert_same(grads, expected)


def test_noise_is_drawn_anew_for_a_query_set_of_the_same_size():
    batch, one = tasks_of(query=6), learner()
    value, _ = written_out(one, batch[0])
    torch.testing.assert_close(losses_and_gradients(one, batch)[0][0], value, rtol=1e-12, atol=0)


def moved(one, along, size):
    with torch.no_grad():
        for name, p in one.meta_parameters().items():
            p.add_(size * along[name])


@pytest.mark.parametrize("case", [c for c in CASES if not c.get("detach")])
def test_G6_the_full_gradient_is_the_slope_of_F_with_frozen_noise_and_soft_gates(case):
    batch, one = tasks_of(), learner(**settings_of(case, relaxed=True))
    _, grads = losses_and_gradients(one, batch)
    generator = torch.Generator().manual_seed(2)
    along = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in grads.items()}
    values = []
    for size in (1e-6, -2e-6):
        moved(one, along, size)
        values.append(losses_and_gradients(one, batch)[0].item())
    slope = sum((grads[n] * along[n]).sum().item() for n in grads)
    assert math.isclose(slope, (values[0] - values[1]) / 2e-6, rel_tol=1e-5)


def test_G14_first_order_drops_exactly_the_second_derivatives():
    batch, one = tasks_of(), learner(update="first_order")
    losses, grads = losses_and_gradients(one, batch)
    task = batch[0]
    torch.manual_seed(5)
    sn, qn = one.model.noise(6), one.model.noise(5)
    with torch.no_grad():
        metas = one.meta_parameters()
        end = one.inner.adapt(metas, task.support_x, task.support_y, sn, 0.4)
    end = {n: p.requires_grad_() for n, p in end.items()}
    value, _ = one.inner.query_value(end, task, (sn, qn), 0.4)
    expected = torch.autograd.grad(value, list(end.values()))
    assert_same(grads, dict(zip(end, expected, strict=True)))
    same, exact = losses_and_gradients(learner(), batch)
    assert math.isclose(losses.item(), same.item())
    scale = max(g.abs().max().item() for g in exact.values())
    assert max((grads[n] - exact[n]).abs().max().item() for n in exact) > 1e-2 * scale


def test_G14_on_a_linear_loss_both_agree():
    """With a loss linear in the logits and steps of the head alone, L is linear in what moves."""

    def linear(logits, y):
        return logits[torch.arange(len(y)), y].mean()

    batch, found = tasks_of(), {}
    for update in ("full", "first_order"):
        one = learner(update=update, loss=linear, sparsity=0.0, stages=("backbone",))
        for name, p in one.meta_parameters().items():
            if not name.startswith("head"):
                p.requires_grad_(False)
        parts = {"backbone": ["head.weight", "head.bias"], "gates": []}
        object.__setattr__(one.inner, "parts", lambda parts=parts: parts)
        metas = {n: p for n, p in one.meta_parameters().items() if n.startswith("head")}
        torch.manual_seed(5)
        losses = one.task_losses(batch).losses
        grads = torch.autograd.grad(losses.sum(), list(metas.values()))
        found[update] = dict(zip(metas, grads, strict=True))
    assert_same(found["first_order"], found["full"])


def test_G8_sparsity_0_is_no_price_and_the_price_enters_twice():
    batch = tasks_of()
    free, _ = losses_and_gradients(learner(sparsity=0.0), batch)
    value, _ = written_out(learner(), batch[0], weight=0.0)
    assert math.isclose(free.item(), value.item(), rel_tol=1e-12)
    late = learner(warmup=0.5)  # without a price until then
    assert losses_and_gradients(late, batch, progress=0.4)[0] == free
    assert losses_and_gradients(late, batch, progress=0.5)[0] > free


@pytest.mark.parametrize(
    ("settings", "penalty"),
    [
        ({"target": 0.3}, lambda r: (r - 0.3).clamp(min=0)),
        ({"target": 0.9}, lambda r: (r - 0.9).clamp(min=0)),
        ({"target": 0.9, "two_sided": True}, lambda r: (0.9 - r).abs()),
    ],
)
def test_G8_with_a_target(settings, penalty):
    batch, one = tasks_of(), learner(**settings)
    losses, grads = losses_and_gradients(one, batch)
    value, expected = written_out(one, batch[0], penalty=penalty)
    torch.testing.assert_close(losses[0], value, rtol=1e-12, atol=0)
    assert_same(grads, expected)


def test_G8_a_high_price_closes_the_gates():
    batch, one = tasks_of(), learner(sparsity=10.0, update="first_order")
    task, x = batch[0], images()

    def share():
        with torch.no_grad():
            return open_share(one.adapt(task.support_x, task.support_y).deploy().masks(x)).item()

    before = share()
    optimizer = torch.optim.SGD(one.meta_parameters().values(), lr=0.2)
    for _ in range(40):
        optimizer.zero_grad()
        one.task_losses(batch).losses.sum().backward()
        optimizer.step()
    assert share() < 0.05 < 0.2 < before


def test_G12_without_inner_rates_it_is_the_gradient_of_the_query_loss():
    batch, one = tasks_of(), learner(inner_lr=0.0, gate_lr=0.0)
    losses, grads = losses_and_gradients(one, batch)
    torch.manual_seed(5)
    one.model.noise(6)
    logits, masks = one.model.run(batch[0].query_x, noise=one.model.noise(5))
    value = F.cross_entropy(logits, batch[0].query_y) + 0.4 * open_share(masks)
    expected = torch.autograd.grad(value, list(one.model.parameters()))
    assert math.isclose(losses.item(), value.item(), rel_tol=1e-12)
    assert_same(grads, dict(zip(grads, expected, strict=True)))
    without, same = losses_and_gradients(learner(stages=()), batch)
    assert torch.equal(without, losses)
    assert_same(same, grads)


def adapted(one):
    task = tasks_of()[0]
    return one.adapt(task.support_x, task.support_y).params


def differing(a, b):
    names = {n.split(".")[0] for n in a if not torch.equal(a[n], b[n])}
    return {"gates" if n == "gates" else "backbone" for n in names}


def test_G12_a_rate_of_0_leaves_its_part_alone():
    start = learner().meta_parameters()
    assert differing(adapted(learner(gate_lr=0.0)), start) == {"backbone"}
    assert differing(adapted(learner(inner_lr=0.0)), start) == {"gates"}
    assert differing(adapted(learner()), start) == {"backbone", "gates"}
    assert differing(adapted(learner(stages=("backbone",))), start) == {"backbone"}
    assert differing(adapted(learner(stages=())), start) == set()


def test_the_noise_of_an_image_is_the_same_whichever_images_come_after_it():
    one = learner(noise_seed=3)
    few, many = one.drawn(5)["noise"], one.drawn(40)["noise"]
    assert [part.shape[1] for part in few] == one.model.sizes
    assert all(torch.equal(a, b[:5]) for a, b in zip(few, many, strict=True))
    assert not torch.equal(few[0], one.drawn(5)["noise"][1])


@pytest.mark.parametrize("norm", ["batch", "support", "none"])
def test_adapting_is_both_steps_written_out(norm):
    one, task = learner(norm, noise_seed=3), tasks_of()[0]
    model, x, y = one.model, task.support_x, task.support_y
    generator = torch.Generator().manual_seed(3)
    uniform = torch.rand(len(x), sum(model.sizes), generator=generator, dtype=x.dtype)
    noise = (uniform / (1 - uniform)).log().split(model.sizes, dim=1)
    params = dict(model.named_parameters())
    theta = {n: p for n, p in params.items() if not n.startswith("gates.")}
    grads = torch.autograd.grad(F.cross_entropy(model(x, gate_mode="open"), y), [*theta.values()])
    theta = {n: p - 0.2 * g for (n, p), g in zip(theta.items(), grads, strict=True)}
    phi = {n: p for n, p in params.items() if n not in theta}
    there = {f"m.{n}": p for n, p in {**phi, **theta}.items()}
    logits, masks = functional_call(_Run(model), there, (x,), {"noise": noise})
    value = F.cross_entropy(logits, y) + 0.4 * open_share(masks)
    grads = torch.autograd.grad(value, [*phi.values()])
    phi = {n: p - 0.3 * g for (n, p), g in zip(phi.items(), grads, strict=True)}
    assert_same(one.adapt(x, y).params, {**theta, **phi})


def test_adapting_drops_nothing_out():
    one = learner()
    one.model.blocks[1].norm = torch.nn.Dropout(0.9)
    assert one.model.training
    assert differing(adapted(one), adapted(learner())) == set()


def test_adapting_takes_a_loss_that_is_a_module_as_it_is_in_use():
    loss = Louder()
    found, expected = adapted(learner(loss=loss)), adapted(learner())
    assert loss.training
    assert differing(found, expected) == set()


@pytest.mark.parametrize("norm", ["batch", "support", "none"])
def test_G13_with_open_gates_and_no_price_the_backbone_gets_what_per_fedavg_gets(norm):
    batch, one = tasks_of(2), learner(norm, sparsity=0.0)
    for gate in one.model.gates:
        torch.nn.init.constant_(gate.outer.bias, 500.0)
    losses, grads = losses_and_gradients(one, batch)
    maml = MAML(plain("conv4", norm), inner_lr=0.2)
    expected, wanted = losses_and_gradients(maml, batch)
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=0)
    assert_same({n: grads[n] for n in wanted}, wanted)


def test_G15_the_gates_step_starts_from_the_adapted_backbone():
    a, b = adapted(learner()), adapted(learner(inner_lr=0.1))
    assert differing(a, b) == {"backbone", "gates"}  # with theta in place of theta_i: backbone
    reverse = {"stages": ("gates", "backbone")}
    a, b = adapted(learner(**reverse)), adapted(learner(**reverse, inner_lr=0.1))
    assert differing(a, b) == {"backbone"}


def test_G15_detaching_changes_the_gradient_and_not_F():
    batch = tasks_of()
    value, grads = losses_and_gradients(learner(), batch)
    same, other = losses_and_gradients(learner(detach_stage1=True), batch)
    assert torch.equal(value, same)
    assert differing(grads, other) == {"backbone"}


def test_a_joint_step_moves_both_parts_from_the_same_point():
    one, task = learner(stages=("joint",), backbone_gates="learned"), tasks_of()[0]
    metas, noise = one.meta_parameters(), one.model.noise(len(task.support_x))
    given = task.support_x, task.support_y, noise
    end = one.inner.adapt(metas, *given, 0.4)
    logits, masks = one.model.run(task.support_x, noise=noise)
    price = 0.4 * open_share(masks)
    loss = F.cross_entropy(logits, task.support_y) + price
    grads = torch.autograd.grad(loss, list(metas.values()), retain_graph=True)
    plain = torch.autograd.grad(loss - price, list(metas.values()), allow_unused=True)
    expected = {
        name: p - (0.3 * both if name.startswith("gates.") else 0.2 * alone)  # without the price
        for (name, p), both, alone in zip(metas.items(), grads, plain, strict=True)
    }
    assert_same(end, expected)
    in_turn = learner(backbone_gates="learned").inner.adapt(metas, *given, 0.4)
    assert differing(end, in_turn) == {"gates"}
    detached = learner(stages=("joint", "gates"), detach_stage1=True)
    assert detached.inner.adapt(metas, *given, 0.4).keys() == metas.keys()


def test_noise_comes_from_the_global_generator_and_adaptation_from_its_seed():
    batch, one, task = tasks_of(), learner(), tasks_of()[0]
    first = losses_and_gradients(one, batch)[0]
    assert torch.equal(first, losses_and_gradients(one, batch)[0])
    torch.manual_seed(6)
    assert not torch.equal(first, one.task_losses(batch).losses)
    state = torch.get_rng_state()
    a = one.adapt(task.support_x, task.support_y)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(7)
    b = one.adapt(task.support_x, task.support_y)
    assert differing(a.params, b.params) == set()
    assert differing(a.params, adapted(learner(noise_seed=1))) == {"gates"}


def test_predictions_are_those_of_the_deployed_network_also_with_filters_skipped():
    task = tasks_of()[0]
    predict = learner("support").adapt(task.support_x, task.support_y)
    network = predict.deploy()
    torch.testing.assert_close(predict(task.query_x), network(task.query_x))
    torch.testing.assert_close(skip_each(network, task.query_x), network(task.query_x))
    active = gating.active_macs(network, network.masks(task.query_x), (1, 16, 16))
    assert (active < cost.macs(network, (1, 16, 16))).all()


OTHERWISE = {
    "inner_lr": 0.1,
    "gate_lr": 0.1,
    "stages": ("gates", "backbone"),
    "backbone_gates": "learned",
    "sparsity": 0.3,
    "target": 0.5,
    "warmup": 0.1,
    "update": "first_order",
    "detach_stage1": True,
    "relaxed": True,
    "loss": F.multi_margin_loss,
    "metric": F.cross_entropy,
    "noise_seed": 1,
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_every_option_is_among_the_settings(name):
    first = learner().settings()
    assert first == json.loads(json.dumps(learner().settings()))
    assert learner(**{name: OTHERWISE[name]}).settings() != first


def test_two_sided_is_among_the_settings():
    one, other = learner(target=0.5), learner(target=0.5, two_sided=True)
    assert one.settings() != other.settings()


def test_it_is_trained_checkpointed_resumed_and_evaluated_like_any_learner(tmp_path):
    sampler = easy_source().sampler(ways=WAYS, shots=2, queries=3, seed=0)

    def fresh():
        torch.manual_seed(0)
        network = Conv4(1, WAYS, width=4, norm="support", image_size=16)
        return MetaGater(ChannelGatedConv4(network), 0.1, sparsity=0.1)

    run = {"steps": 6, "tasks_per_step": 2, "outer_lr": 1e-2, "progress": False, "save_every": 3}
    whole = fresh()
    history = meta_train(whole, sampler, **run, out=tmp_path / "whole")
    assert len(history.loss) == 6
    stopped = fresh()

    class Stop(Exception):
        pass

    def stop(batch, progress):
        if progress >= 0.5:
            raise Stop
        return MetaGater.task_losses(stopped, batch, progress)

    stopped.task_losses = stop
    with pytest.raises(Stop):
        meta_train(stopped, sampler, **run, out=tmp_path / "cut")
    resumed = fresh()
    meta_train(resumed, sampler, **run, out=tmp_path / "cut", resume=True)
    loaded = fresh()
    checkpoint.load(tmp_path / "whole" / "last.safetensors", loaded)
    for other in (resumed, loaded):
        assert differing(whole.meta_parameters(), other.meta_parameters()) == set()
    result = evaluate(whole, sampler, 4)
    assert str(result).endswith("(4 tasks; deployable: normalized by the support set)")
    assert bilevel.parameters_of(whole.model).keys() == whole.meta_parameters().keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner_lr": -1.0}, "inner_lr must be finite and >= 0, got -1.0"),
        ({"gate_lr": math.inf}, "gate_lr must be finite"),
        ({"sparsity": math.nan}, "sparsity must be finite and >= 0, got nan"),
        ({"stages": ("head",)}, "stages must be one of 'backbone', 'gates', 'joint', got 'head'"),
        ({"backbone_gates": "closed"}, "backbone_gates must be one of"),
        ({"update": "second"}, "update must be one of 'full', 'first_order', got 'second'"),
        ({"target": 1.5}, r"target must be in 0..1, got 1.5"),
        ({"warmup": -0.1}, r"warmup must be in 0..1, got -0.1"),
        ({"two_sided": True}, "two_sided=True needs a target"),
        ({"stages": "gates"}, "stages must be a sequence of names, got 'gates'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        learner(**settings)


def test_bad_input_is_named():
    with pytest.raises(TypeError, match="model must have channel gates, got Conv4"):
        MetaGater(Conv4(1, 5))
    one, task = learner(), tasks_of()[0]
    with pytest.raises(ValueError, match=r"support_y must hold labels in 0..2, got 3"):
        one.adapt(task.support_x, task.support_y + 1)
    with pytest.raises(ValueError, match="support_x and support_y must have one row"):
        one.adapt(task.support_x, task.support_y[:-1])
    with pytest.raises(ValueError, match="support_x must be finite"):
        one.adapt(task.support_x * math.nan, task.support_y)


def test_another_network_is_the_one_that_learns():
    torch.manual_seed(0)
    sizes = {"ways": 3, "image_size": 16}
    first, other = (
        ChannelGatedConv4(Conv4(1, **sizes, width=width, norm=norm))
        for width, norm in ((4, "batch"), (6, "group"))
    )
    other.blocks[0].conv.weight.requires_grad_(False)
    y = torch.arange(6) % 3
    batch = TaskBatch.stack([Task(torch.rand(6, 1, 16, 16), y, torch.rand(6, 1, 16, 16), y)])
    learner, fresh = MetaGater(first, 0.1), MetaGater(other, 0.1)
    learner.model = other
    found = []
    for of in (learner, fresh):
        torch.manual_seed(1)
        losses = of.task_losses(batch).losses
        metas = of.meta_parameters()
        found.append((losses, *torch.autograd.grad(losses.sum(), list(metas.values()))))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
