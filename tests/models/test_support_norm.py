"""Anybody's network with batch norms of PyTorch, made inductive by one call."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metalearn_tut import MAML, ProtoNet, models
from metalearn_tut.bilevel import meta_gradient
from metalearn_tut.bilevel.forward import norm_of
from metalearn_tut.evaluation.accuracy import protocol_of
from metalearn_tut.models import support_norm
from metalearn_tut.tasks import Task, TaskBatch


class Residual(nn.Module):
    """None of ours: a shortcut, norms by attribute and in a list, one without weights."""

    def __init__(self, vectors=True):
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv, self.norms = nn.Conv2d(6, 6, 3, padding=1), nn.ModuleList([nn.BatchNorm2d(6)])
        self.plain = nn.BatchNorm2d(6, affine=False, track_running_stats=False)
        self.last = nn.BatchNorm1d(24) if vectors else nn.Identity()
        self.head = nn.Linear(24, 3)

    def embed(self, x):
        x = F.relu(self.norm0(self.stem(x)))
        x = F.relu(self.plain(x + self.norms[0](self.conv(x))))
        return self.last(F.adaptive_avg_pool2d(x, 2).flatten(1))

    def forward(self, x):
        return self.head(self.embed(x))


def network(vectors=True, dtype=torch.float64):
    torch.manual_seed(0)
    own = Residual(vectors).to(dtype)
    with torch.no_grad():
        for p in own.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return own


def task(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(15, 2, 8, 8, generator=generator).to(dtype), torch.arange(15) % 3
    return Task(x[:6], y[:6], x[6:], y[6:])


def by_hand(own, support, query):
    """PyTorch's own evaluation mode, with running statistics that are the support set's.

    Layer by layer: the statistics of one are those of what the layers before it make of the
    support set; in training mode PyTorch computes them in one pass.
    """
    own = copy.deepcopy(own).train()
    norms = [m for m in own.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for m in norms:
        m.momentum, m.track_running_stats = 1.0, True
        m.running_mean = torch.zeros(m.num_features, dtype=support.dtype)
        m.running_var = torch.ones(m.num_features, dtype=support.dtype)
        m.register_forward_hook(unbiased)
    own(support)
    return own.eval()(query)


def unbiased(norm, inputs, _):
    """PyTorch keeps the unbiased variance, and normalizes by the biased one."""
    if norm.training:
        pixels = inputs[0].numel() / norm.num_features
        norm.running_var = norm.running_var * (pixels - 1) / pixels


def test_queries_are_normalized_by_the_support_set_as_pytorch_would():
    own, of = network(), task()
    both = torch.cat([of.support_x, of.query_x])
    found = support_norm(own)(both, n_support=6)[6:]
    torch.testing.assert_close(found, by_hand(own, of.support_x, of.query_x), rtol=1e-9, atol=1e-9)
    alone = support_norm(own)(both[:7], n_support=6)[6:]
    torch.testing.assert_close(alone, found[:1], rtol=1e-12, atol=1e-12)


def test_without_n_support_all_rows_count_as_in_training_mode():
    own, of = network(), task()
    expected = copy.deepcopy(own).train()(of.query_x)
    torch.testing.assert_close(support_norm(own.eval())(of.query_x), expected)


def test_the_network_itself_is_left_as_it_is():
    own = network()
    before = copy.deepcopy(own.state_dict())
    inductive = support_norm(own)
    with torch.no_grad():
        for p in inductive.parameters():
            p.zero_()
    assert all(torch.equal(before[n], t) for n, t in own.state_dict().items())
    assert isinstance(own.norm0, nn.BatchNorm2d) and norm_of(own) == "none"
    assert norm_of(inductive) == "support" and inductive.network.head.in_features == 24
    frozen = [n for n, p in inductive.named_parameters() if not p.requires_grad]
    assert frozen == ["network.plain.norm.weight", "network.plain.norm.bias"]


@pytest.mark.parametrize("engine", ["higher", "vectorised"])
def test_engines_agree_on_its_meta_gradient(engine):
    inductive, of = support_norm(network(vectors=False)), task()
    settings = {"inner_lr": 0.1, "inner_steps": 2}
    found = meta_gradient(inductive, of, engine=engine, **settings)
    expected = meta_gradient(inductive, of, **settings)
    assert max(g.abs().max() for g in expected.values()) > 1e-3
    for name, g in expected.items():
        torch.testing.assert_close(found[name], g, rtol=1e-8, atol=1e-10)


def test_maml_trains_adapts_and_deploys_it():
    learner, of = MAML(support_norm(network()), 0.2, 2), task()
    optimizer = torch.optim.Adam(learner.parameters(), 0.01)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = learner.task_losses(TaskBatch.stack([of])).losses.mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    predict = learner.adapt(of.support_x, of.support_y)
    expected = predict(of.query_x)
    assert F.cross_entropy(expected, of.query_y).item() < losses[0]
    assert protocol_of(predict, of.query_x) == protocol_of(
        MAML(models.Conv4(1, 3, width=4, image_size=16, norm="support")).adapt(
            torch.rand(3, 1, 16, 16), torch.arange(3)
        ),
        torch.rand(3, 1, 16, 16),
    )
    deployed = predict.deploy()
    torch.testing.assert_close(deployed(of.query_x), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(deployed(of.query_x[:1]), expected[:1], rtol=1e-8, atol=1e-8)
    own = MAML(network(), 0.2, 2).adapt(of.support_x, of.support_y)(of.query_x)
    assert not torch.allclose(own, expected)


def test_prototypes_of_its_embedding():
    learner, of = ProtoNet(support_norm(network(dtype=torch.float32))), task(torch.float32)
    predict = learner.adapt(of.support_x, of.support_y)
    features = by_hand_embedding(learner.model, of)
    centers = torch.stack([features[:6][of.support_y == c].mean(0) for c in range(3)])
    expected = -(torch.cdist(features[6:], centers) ** 2)
    torch.testing.assert_close(predict(of.query_x), expected, rtol=1e-3, atol=1e-3)
    found, wanted = predict.deploy()(of.query_x).softmax(1), expected.softmax(1)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r"ProtoNet needs a model with embed\(x\)"):
        ProtoNet(support_norm(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))))


def by_hand_embedding(inductive, of):
    own = network(dtype=torch.float32)
    own.head = nn.Identity()
    both = torch.cat([of.support_x, of.query_x])
    return by_hand(own, of.support_x, both)


def test_threads_have_their_own_support_sets():
    inductive, of = support_norm(network()), task()
    x = torch.cat([of.support_x, of.query_x])
    expected = {n: inductive(x, n_support=n) for n in range(2, 10)}
    with ThreadPoolExecutor(8) as pool:
        for n, out in pool.map(lambda n: (n, inductive(x, n_support=n)), [*expected] * 20):
            assert torch.equal(out, expected[n])


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (nn.Linear(4, 3), "Linear has no batch norm of PyTorch"),
        (models.Conv4(1, 3), "Conv4 has no batch norm of PyTorch .* norm='support'"),
        (nn.Sequential(nn.LazyBatchNorm2d()), "Sequential has a lazy layer without a shape"),
    ],
)
def test_what_has_no_batch_norm_is_refused(own, said):
    with pytest.raises(ValueError, match=said):
        support_norm(own)
