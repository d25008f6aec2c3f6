"""A learner's state is one thing: saved whole, loaded whole, compared by content, never shared."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zoo import NETWORKS, build, conv, mlp, task_of

from metalearn_tut import MAML, ProtoNet, Reptile, evaluate, meta_train, saliency, tasks
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.files.content import described
from metalearn_tut.gating import ChannelGatedConv4, MetaGater
from metalearn_tut.learners.maml import anil, fomaml, meta_sgd
from metalearn_tut.learners.state import state_of
from metalearn_tut.models import Conv4
from metalearn_tut.rank_losses import RankedRange
from metalearn_tut.tasks import Task, TaskBatch
from metalearn_tut.training import checkpoint


def source(shift=0.0, seed=1):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(120) % 12
    return tasks.from_arrays(torch.randn(120, 6, generator=generator) + y[:, None] + shift, y)


def sampler(shift=0.0, seed=0):
    return source(shift).sampler(3, 2, 3, seed=seed)


def pruned(make=MAML, share=0.5, **settings):
    torch.manual_seed(0)
    learner = make(mlp(), 0.2, **settings)
    masks = saliency.full_masks(learner)
    scores = saliency.magnitude_scores(learner)
    learner.set_masks(saliency.select(scores, masks, share))
    return learner


def train(learner, **options):
    options = {"steps": 3, "progress": False, "outer_lr": 0.01, **options}
    return meta_train(learner, options.pop("tasks_from", sampler()), **options)


def zeros_of(learner):
    params = dict(learner.model.named_parameters())
    return {n: bool((params[n][m == 0] == 0).all()) for n, m in learner.masks.items()}


# Masks survive every save, load and resume


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("make", [MAML, fomaml, meta_sgd, Reptile])
@pytest.mark.parametrize("kept", ["last", "best"])
def test_masks_are_in_every_checkpoint(tmp_path, make, kept):
    learner = pruned(make)
    train(learner, out=tmp_path, validation=sampler(seed=1), validate_every=1, validation_tasks=2)
    again = make(mlp(), 0.2)
    checkpoint.load(tmp_path / f"{kept}.safetensors", again)
    assert again.masks.keys() == learner.masks.keys()
    for name, mask in learner.masks.items():
        assert torch.equal(again.masks[name] != 0, mask != 0)
    task = sampler()[0]
    adapted = again.adapt(task.support_x, task.support_y, steps=5).params
    for name, mask in again.masks.items():
        assert not adapted[name][mask == 0].any() and adapted[name][mask != 0].all()
    train(again)
    assert all(zeros_of(again).values())


def test_a_resumed_run_of_a_pruned_learner_stays_pruned(tmp_path):
    whole, halves = pruned(), pruned()
    train(whole, steps=4, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        stopped(halves, 2, steps=4, out=tmp_path / "run", save_every=1)
    again = MAML(mlp(), 0.2)  # dense: the file has the masks
    train(again, steps=4, out=tmp_path / "run", resume=True, save_every=1)
    assert all(zeros_of(again).values()) and again.masks
    for name, tensor in state_of(whole).items():
        assert torch.equal(tensor, state_of(again)[name]), name


def stopped(learner, step, **options):
    task_losses, calls = learner.task_losses, []

    def until(*args):
        calls.append(1)
        if len(calls) > step:
            raise KeyboardInterrupt
        return task_losses(*args)

    learner.task_losses = until
    train(learner, **options)


def test_a_dense_file_makes_a_pruned_learner_dense(tmp_path):
    dense = MAML(mlp(), 0.2)
    checkpoint.save(tmp_path / "dense.safetensors", dense)
    learner = pruned()
    checkpoint.load(tmp_path / "dense.safetensors", learner)
    assert not learner.masks
    for a, b in zip(learner.model.parameters(), dense.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_masks_of_a_pruned_student_and_teacher_are_kept(tmp_path):
    pair = MetaDistiller(pruned(share=0.3), pruned(share=0.6))
    checkpoint.save(tmp_path / "pair.safetensors", pair)
    again = MetaDistiller(MAML(mlp(), 0.2), MAML(mlp(), 0.2))
    checkpoint.load(tmp_path / "pair.safetensors", again)
    assert set(again.masks) == set(pair.masks) and again.teacher.masks
    for name, mask in pair.masks.items():
        assert torch.equal(again.masks[name] != 0, mask != 0)
    share = [saliency.kept_fraction(x.masks) for x in (again.teacher, again.student)]
    assert share[0] > share[1]


def test_a_mask_given_later_changed_is_not_changed_in_the_learner():
    learner, given = MAML(mlp(), 0.1), {"0.weight": torch.ones(8, 6)}
    learner.set_masks(given)
    given["0.weight"].zero_()
    assert learner.masks["0.weight"].all()


# Frozen weights and buffers are state, too


def test_frozen_weights_are_in_the_file(tmp_path):
    torch.manual_seed(0)
    learner = MAML(mlp(), 0.1)
    learner.model[0].requires_grad_(False)
    train(learner, out=tmp_path)
    other = MAML(mlp(), 0.1)  # with another first layer
    checkpoint.load(tmp_path / "last.safetensors", other)
    assert torch.equal(other.model[0].weight, learner.model[0].weight)
    task = sampler()[0]
    other.model[0].requires_grad_(False)
    a, b = (x.adapt(task.support_x, task.support_y)(task.query_x) for x in (learner, other))
    assert torch.equal(a, b)


def test_running_statistics_are_in_the_file(tmp_path):
    class Embeds(nn.Sequential):
        def embed(self, x):
            return self(x)

    torch.manual_seed(0)
    learner = ProtoNet(Embeds(nn.Linear(6, 8), nn.BatchNorm1d(8)))
    train(learner, out=tmp_path)
    assert learner.model[1].num_batches_tracked == 3 * 4 * 2
    other = ProtoNet(Embeds(nn.Linear(6, 8), nn.BatchNorm1d(8)))
    checkpoint.load(tmp_path / "last.safetensors", other)
    for name, tensor in learner.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name
    assert evaluate(learner, sampler(), 5).mean == evaluate(other, sampler(), 5).mean


def test_a_resumed_run_with_statistics_is_the_uninterrupted_one(tmp_path):
    class Embeds(nn.Sequential):
        def embed(self, x):
            return self(x)

    def make():
        torch.manual_seed(0)
        return ProtoNet(Embeds(nn.Linear(6, 8), nn.BatchNorm1d(8)))

    whole, halves, again = make(), make(), make()
    train(whole, steps=4)
    with pytest.raises(KeyboardInterrupt):
        stopped(halves, 2, steps=4, out=tmp_path, save_every=1)
    train(again, steps=4, out=tmp_path, save_every=1, resume=True)
    for name, tensor in state_of(whole).items():
        assert torch.equal(tensor, state_of(again)[name]), name


def test_loading_is_all_or_nothing(tmp_path):
    checkpoint.save(tmp_path / "wide.safetensors", MAML(mlp(width=9), 0.1))
    learner = pruned()
    before = {n: t.clone() for n, t in state_of(learner).items()}
    with pytest.raises(ValueError, match=r"0.bias is \[9\] in the file and \[8\] in the learner"):
        checkpoint.load(tmp_path / "wide.safetensors", learner)
    assert all(torch.equal(before[n], t) for n, t in state_of(learner).items())


# What decides a result is compared, and what differs has a name


def half_mse(outputs, targets):
    return 0.5 * F.cross_entropy(outputs, targets)


OTHERS = {
    "inner_lr": lambda: MAML(mlp(), 7.0, 2),
    "inner_steps": lambda: MAML(mlp(), 0.2, 3),
    "first_order": lambda: MAML(mlp(), 0.2, 2, first_order=True),
    "engine": lambda: MAML(mlp(), 0.2, 2, engine="higher"),
    "rate_mode": lambda: MAML(mlp(), 0.2, 2, rate_mode="shared"),
    "groups": lambda: MAML(mlp(), 0.2, 2, groups=[["2.weight"]]),
    "loss": lambda: MAML(mlp(), 0.2, 2, loss=half_mse),
    "inner_loss": lambda: MAML(mlp(), 0.2, 2, inner_loss=half_mse),
    "prox_weight": lambda: MAML(mlp(), 0.2, 2, prox_weight=0.1),
    "multi_step_loss": lambda: MAML(mlp(), 0.2, 2, multi_step_loss=0.5),
    "method": lambda: Reptile(mlp(), 0.2, 2),
    "model": lambda: MAML(mlp(nn.Dropout(0.1)), 0.2, 2),
    "frozen": lambda: frozen_first(MAML(mlp(), 0.2, 2)),
}


def frozen_first(learner):
    learner.model[0].requires_grad_(False)
    return learner


@pytest.mark.slow(quick=4)
@pytest.mark.parametrize("name", OTHERS)
def test_a_run_is_not_gone_on_with_by_another_learner(tmp_path, name):
    train(MAML(mlp(), 0.2, 2), out=tmp_path)
    other = OTHERS[name]()
    before = {n: t.clone() for n, t in state_of(other).items()}
    with pytest.raises(ValueError, match=f"cannot resume .*: learner.{name}.* was .*, now "):
        train(other, out=tmp_path, resume=True, steps=3)
    assert all(torch.equal(before[n], t) for n, t in state_of(other).items())
    train(MAML(mlp(), 0.2, 2), out=tmp_path, resume=True)


def test_two_losses_of_one_name_are_two():
    losses = [lambda o, y, w=w: w * F.cross_entropy(o, y) for w in (0.1, 0.2)]
    made = [MAML(mlp(), 0.1, loss=loss).settings() for loss in losses]
    assert made[0] != made[1]
    assert made[0] == MAML(mlp(), 0.1, loss=losses[0]).settings()

    def scaled(w):
        return lambda o, y: w * F.cross_entropy(o, y)

    assert MAML(mlp(), 0.1, loss=scaled(1.0)).settings() != MAML(mlp(), loss=scaled(2.0)).settings()


def test_data_are_compared_by_content(tmp_path):
    train(MAML(mlp(), 0.2), out=tmp_path)
    with pytest.raises(ValueError, match=r"training.sampler.source.fingerprint was '.*', now '"):
        train(MAML(mlp(), 0.2), out=tmp_path, resume=True, tasks_from=sampler(shift=0.5))
    train(MAML(mlp(), 0.2), out=tmp_path, resume=True, tasks_from=sampler())


def test_validation_tasks_and_metrics_are_compared(tmp_path):
    options = {"out": tmp_path, "validation": sampler(), "validate_every": 1, "validation_tasks": 2}
    train(MAML(mlp(), 0.2), **options)
    with pytest.raises(ValueError, match=r"training\.validation\.source\.fingerprint was"):
        train(MAML(mlp(), 0.2), resume=True, **{**options, "validation": sampler(shift=1.0)})
    with pytest.raises(ValueError, match=r"training\.metric.* was None, now"):
        train(MAML(mlp(), 0.2), resume=True, metric=half_mse, **options)
    with pytest.raises(ValueError, match=r"training.best was 'highest', now 'lowest'"):
        train(MAML(mlp(), 0.2), resume=True, best="lowest", **options)


class Weighted:
    """An aggregate without a repr of its own."""

    def __init__(self, power):
        self.power = power

    def __call__(self, losses):
        return losses.pow(self.power).mean()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Weighted(1.0), Weighted(2.0)),
        (RankedRange(0, 3), RankedRange(1, 3)),
        (lambda losses: losses.mean(), lambda losses: losses.sum()),
    ],
)
def test_aggregates_are_compared_by_what_they_do(tmp_path, one, other):
    train(MAML(mlp(), 0.2), out=tmp_path, aggregate=one)
    with pytest.raises(ValueError, match=r"cannot resume .*: training\.aggregate.* was .*, now"):
        train(MAML(mlp(), 0.2), out=tmp_path, aggregate=other, resume=True)
    train(MAML(mlp(), 0.2), out=tmp_path, aggregate=copy.deepcopy(one), resume=True)


LEARNERS = {
    "maml": lambda: MAML(mlp(), 0.1),
    "anil": lambda: anil(mlp(), head="2"),
    "meta_sgd": lambda: meta_sgd(mlp()),
    "reptile": lambda: Reptile(mlp()),
    "protonet": lambda: ProtoNet(Conv4(1, 3)),
    "tsmd": lambda: MetaDistiller(MAML(mlp(), 0.1), MAML(mlp(), 0.1)),
    "fixed teacher": lambda: MetaDistiller(MAML(mlp()), MAML(mlp()), fixed_teacher=True),
    "metagater": lambda: MetaGater(ChannelGatedConv4(Conv4(1, 3)), 0.1),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_settings_are_json_and_do_not_depend_on_weights_or_use(name):
    torch.manual_seed(0)
    one = LEARNERS[name]()
    if name != "fixed teacher":
        torch.manual_seed(1)
    else:
        torch.manual_seed(0)
    other = LEARNERS[name]()
    assert json.loads(json.dumps(one.settings())) == json.loads(json.dumps(other.settings()))
    if name == "fixed teacher":  # whose weights no checkpoint of the student holds
        assert one.settings() != LEARNERS[name]().settings()


OTHERWISE = {
    "inner_lr": 0.1,
    "inner_steps": 2,
    "rate_mode": "shared",
    "head": "4",
    "groups": [["2.weight"]],
    "loss": F.multi_margin_loss,
    "inner_loss": F.multi_margin_loss,
    "metric": half_mse,
    "prox_weight": 0.1,
}
OF_MAML = {
    "engine": "vectorised",
    "first_order": True,
    "deferred": True,
    "multi_step_loss": 0.5,
    "recompute": True,
}
OF_SOLVERS = {"solver": "neumann", "solver_steps": 5}


def learned_by(kind, **options):
    return kind(mlp(), **{"inner_lr": 0.2, "inner_steps": 1, **options}).settings()


@pytest.mark.parametrize("name", [*OTHERWISE, *OF_MAML, *OF_SOLVERS])
def test_every_option_is_among_the_settings(name):
    given = {name: {**OTHERWISE, **OF_MAML, **OF_SOLVERS}[name]}
    for kind in (MAML, Reptile) if name in OTHERWISE and name != "rate_mode" else (MAML,):
        rest = {"engine": "implicit"} if name in OF_SOLVERS else {}
        assert learned_by(kind, **rest, **given) != learned_by(kind, **rest)


def test_a_zero_head_is_among_the_settings():
    for kind in (MAML, Reptile):
        made = [kind(mlp(), 0.1, head="2", zero_head=zero).settings() for zero in (False, True)]
        assert made[0] != made[1]


# Learned rates are the model's


@pytest.mark.parametrize("rate_mode", ["shared", "per_layer", "per_layer_and_step", "per_weight"])
def test_learned_rates_follow_the_model(rate_mode):
    torch.manual_seed(0)
    learner = MAML(mlp(), 0.1, 2, rate_mode=rate_mode)
    torch.manual_seed(0)
    double = MAML(mlp().double(), 0.1, 2, rate_mode=rate_mode)
    learner.model.double()
    sx, sy, qx, qy = task_of("mlp")
    task = Task(sx.double(), sy, qx.double(), qy)
    a, b = (x.adapt(task.support_x, sy)(task.query_x) for x in (learner, double))
    assert a.dtype == torch.float64
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert all(p.dtype == torch.float64 for p in learner.meta_parameters().values())
    kept = dict(learner.meta_parameters())
    learner.task_losses(TaskBatch.stack([task])).losses.sum().backward()
    assert all(kept[n] is p and p.grad is not None for n, p in learner.meta_parameters().items())


# Predictors and data are values


def test_what_a_predictor_was_made_from_may_be_written_over():
    sx, sy, qx, _ = task_of("Conv4, support")
    predict = MAML(build("Conv4, support"), 0.1).adapt(sx, sy)
    before = predict(qx)
    sx.zero_()
    predict.deploy()
    assert torch.equal(predict(qx), before)


def test_two_learners_on_one_network_do_not_share_their_masks():
    model = conv(nn.GroupNorm(2, 4))
    one, other = MAML(model, 0.1), MAML(model, 0.1)
    one.set_masks({"0.bias": torch.zeros(4)})
    assert not other.masks


# What a loss is made of is compared, wherever it keeps it


class ScaledLoss(nn.Module):
    def __init__(self, scale, how):
        super().__init__()
        value = torch.tensor(scale)
        self.how = how
        if how == "parameter":
            self.scale = nn.Parameter(value, requires_grad=False)
        elif how == "buffer":
            self.register_buffer("scale", value)
        else:
            self.scale = value

    def forward(self, outputs, targets):
        return self.scale * F.cross_entropy(outputs, targets)


class SlottedLoss:
    __slots__ = ("scale",)

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, outputs, targets):
        return self.scale * F.cross_entropy(outputs, targets)


def keyword_default(scale):
    def loss(outputs, targets, *, scale=scale):
        return scale * F.cross_entropy(outputs, targets)

    return loss


def of_its_file(scale):
    code = "def loss(o, y):\n    return SCALE * F.cross_entropy(o, y)\n"
    names = {"F": F, "SCALE": scale}
    exec(code, names)
    return names["loss"]


def of_a_function_of_its_file(scale):
    names = {"F": F}
    code = (
        f"def by(v):\n    return {scale} * v\ndef loss(o, y):\n    return by(F.cross_entropy(o, y))"
    )
    exec(code, names)
    return names["loss"]


def inner_function(scale):
    names = {"F": F}
    exec(f"def loss(o, y):\n    return (lambda v: {scale} * v)(F.cross_entropy(o, y))", names)
    return names["loss"]


MADE = {
    "class weights": lambda s: nn.CrossEntropyLoss(weight=torch.tensor([s, 1.0, 1.0])),
    **{how: lambda s, h=how: ScaledLoss(s, h) for how in ("parameter", "buffer", "plain tensor")},
    "method of a module": lambda s: ScaledLoss(s, "parameter").forward,
    "slots": SlottedLoss,
    "keyword default": keyword_default,
    "a number of its file": of_its_file,
    "a function of its file": of_a_function_of_its_file,
    "a function inside": inner_function,
}


@pytest.mark.parametrize("name", MADE)
def test_losses_that_differ_in_what_they_hold_are_two(tmp_path, name):
    one, same, other = (MAML(mlp(), 0.2, loss=MADE[name](s)) for s in (1.0, 1.0, 2.0))
    assert json.dumps(one.settings()) == json.dumps(same.settings()) != json.dumps(other.settings())
    train(one, out=tmp_path)
    with pytest.raises(ValueError, match=r"cannot resume .*: learner.loss"):
        train(other, out=tmp_path, resume=True)


class Trainer:
    """Its learner's loss is its own method: what it is leads back to itself."""

    def __init__(self, scale):
        self.scale, self.learner = scale, MAML(mlp(), 0.2, loss=self.loss)

    def loss(self, outputs, targets):
        return self.scale * F.cross_entropy(outputs, targets)


def calls_itself(scale):
    def loss(outputs, targets, again=True):
        return loss(outputs, targets, False) if again else scale * F.cross_entropy(outputs, targets)

    return MAML(mlp(), 0.2, loss=loss)


def reads_its_model(scale):
    model = mlp()
    weight = model[0].weight
    return MAML(
        model,
        0.2,
        loss=lambda o, y: (
            F.cross_entropy(o, y)
            + scale * weight.square().sum()
            + scale * sum(p.abs().sum() for p in model.parameters())
        ),
    )


@pytest.mark.parametrize("make", [lambda s: Trainer(s).learner, calls_itself, reads_its_model])
def test_what_leads_back_to_itself_has_settings_that_do_not_depend_on_weights(make):
    learners = []
    for seed, scale in enumerate((1.0, 1.0, 2.0)):
        torch.manual_seed(seed)
        learners.append(make(scale))
    one, same, other = (json.dumps(learner.settings()) for learner in learners)
    assert one == same != other
    task = sampler()[0]
    learners[0].task_losses(TaskBatch.stack([task])).losses.sum().backward()
    assert json.dumps(learners[0].settings()) == one


def test_sets_are_described_alike_in_every_process():
    names = [f"name{i}" for i in range(20)]
    assert described(set(names)) == described(frozenset(reversed(names))) == sorted(names)


def test_a_constant_of_a_network_that_no_file_has_is_compared():
    class Shifted(nn.Module):
        def __init__(self, mean):
            super().__init__()
            self.head, self.mean = nn.Linear(6, 3), torch.tensor(mean)

        def forward(self, x):
            return self.head(x - self.mean)

    one, same, other = (MAML(Shifted(m), 0.1).settings() for m in (0.5, 0.5, 0.7))
    assert one == same != other


def test_a_network_that_holds_its_layers_in_a_helper_is_the_same_whatever_its_weights():
    for name in ("helper", "named tuple", "namespace", "default argument"):
        made = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            made.append(json.dumps(MAML(NETWORKS[name](), 0.1).settings()))
        assert made[0] == made[1], name


# A layer is its tensors: the head by whatever name, and rates for what is stepped


class TiedHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 6)
        self.head.weight = self.body.weight

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


class HeadOfTwoNames(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.classifier = nn.Linear(6, 6), nn.Linear(6, 3)
        self.head = self.classifier

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


def test_a_head_whose_weight_has_another_name_is_stepped_whole():
    task = sampler()[0]
    model = TiedHead()
    learner = anil(model, 0.2)
    p = {n: q.detach().clone().requires_grad_() for n, q in model.named_parameters()}
    hidden = torch.tanh(F.linear(task.support_x, p["body.weight"], p["body.bias"]))
    value = F.cross_entropy(F.linear(hidden, p["body.weight"], p["head.bias"]), task.support_y)
    names = ("body.weight", "head.bias")
    grads = torch.autograd.grad(value, [p[n] for n in names])
    adapted = learner.adapt(task.support_x, task.support_y).params
    for n, g in zip(names, grads, strict=True):
        torch.testing.assert_close(adapted[n], (p[n] - 0.2 * g).detach())
    assert torch.equal(adapted["body.bias"], model.body.bias)
    with pytest.raises(ValueError, match=r"shares no tensor: body\.weight would be zero, too"):
        MAML(model, zero_head=True)


def test_a_head_of_two_names_is_one_head():
    model, task = HeadOfTwoNames(), sampler()[0]
    for name in ("head", "classifier"):
        assert anil(model, 0.2, head=name).stepped() == ["classifier.weight", "classifier.bias"]
        learner = MAML(model, 0.5, 2, zero_head=True, head=name)
        assert set(learner.meta_parameters()) == {"body.weight", "body.bias"}
        start = learner.adapt(task.support_x, task.support_y, steps=0).params
        assert not start["classifier.weight"].any()


@pytest.mark.parametrize("rate_mode", ["per_layer", "per_layer_and_step", "per_weight"])
def test_what_was_frozen_when_rates_were_made_has_none(rate_mode):
    model, task = mlp(), sampler()[0]
    model[0].requires_grad_(False)
    learner = MAML(model, 0.1, 2, rate_mode=rate_mode)
    model.requires_grad_(True)
    said = f"rate_mode='{rate_mode}' has no rate for 0.weight, 0.bias, which was frozen when"
    with pytest.raises(ValueError, match=said):
        learner.adapt(task.support_x, task.support_y)
    with pytest.raises(ValueError, match=said):
        train(learner)
    model[0].requires_grad_(False)
    learner.adapt(task.support_x, task.support_y)


def test_a_run_of_gates_is_not_gone_on_with_when_other_parts_are_frozen(tmp_path):
    images = tasks.from_arrays(torch.rand(60, 1, 16, 16), torch.arange(60) % 6).sampler(3, 2, 2)

    def made():
        conv4 = Conv4(1, 3, width=4, norm="support", image_size=16)
        return MetaGater(ChannelGatedConv4(conv4), 0.1)

    learner = made()
    learner.model.head.requires_grad_(False)
    train(learner, steps=1, out=tmp_path, tasks_from=images)
    with pytest.raises(ValueError, match=r"learner\.frozen was"):
        train(made(), steps=1, out=tmp_path, resume=True, tasks_from=images)
