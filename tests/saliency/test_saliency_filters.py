"""Filters that go for good: the right ones, and what is left is the network without them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metalearn_tut import MAML
from metalearn_tut.evaluation import cost
from metalearn_tut.models import NORMS, CifarResNet, Conv4, ResNet12
from metalearn_tut.saliency.filters import best_filters, filter_scores, remove_filters

NETWORKS = {
    "conv4": lambda norm: Conv4(2, ways=3, width=16, norm=norm, image_size=33),
    "resnet12": lambda norm: ResNet12(3, widths=(16, 8, 16, 8), in_channels=2, norm=norm),
}
SURROUNDINGS = {  # filters, their norm, and who reads them, written out
    "conv4": {
        "blocks.0.conv": ("blocks.0.norm", "blocks.1.conv"),
        "blocks.1.conv": ("blocks.1.norm", "blocks.2.conv"),
        "blocks.2.conv": ("blocks.2.norm", "blocks.3.conv"),
        "blocks.3.conv": ("blocks.3.norm", "head"),
    },
    "resnet12": {
        f"blocks.{b}.convs.{i}": (f"blocks.{b}.norms.{i}", f"blocks.{b}.convs.{i + 1}")
        for b in range(4)
        for i in range(2)
    },
}


def random_network(make, seed=0):
    """Float64, with every parameter random: zeros and ones would hide errors."""
    torch.manual_seed(seed)
    network = make().double()
    for p in network.parameters():
        nn.init.normal_(p, mean=0.2, std=0.5)
    return network


def random_scores(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        n: torch.rand(p.shape, generator=generator, dtype=torch.float64)
        for n, p in network.named_parameters()
    }


def zeroed(network, kept, surroundings):
    """The same network with everything of the dropped filters at zero."""
    network = copy.deepcopy(network)
    params = dict(network.named_parameters())
    with torch.no_grad():
        for layer, keep in kept.items():
            for part in (layer, surroundings[layer][0]):
                for leaf in ("weight", "bias"):
                    if f"{part}.{leaf}" in params:
                        params[f"{part}.{leaf}"][~keep] = 0
    return network


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_narrow_network_is_the_one_whose_filters_are_zero(name, norm):
    network = random_network(lambda: NETWORKS[name](norm))
    layers = list(SURROUNDINGS[name])
    shares = dict(zip(layers, (0.5, 0.25, 0.8, 0.01, 0.4, 0.7, 0.3, 1.0), strict=False))
    kept = best_filters(network, random_scores(network), shares)
    narrow, empty = remove_filters(network, kept), zeroed(network, kept, SURROUNDINGS[name])
    x = torch.rand(7, 2, 33, 33, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for n_support in (None, 3):
        torch.testing.assert_close(
            narrow(x, n_support), empty(x, n_support), rtol=1e-12, atol=1e-12
        )
    assert (narrow(x) - network(x)).abs().max() > 1e-3
    size = 2 if norm == "group" and name == "conv4" else 1
    for layer, keep in kept.items():
        filters = narrow.get_submodule(layer).out_channels
        assert filters == int(keep.sum()) and (filters < len(keep)) == (shares[layer] < 0.95)
        assert filters % size == 0
        reader = narrow.get_submodule(SURROUNDINGS[name][layer][1])
        assert reader.weight.shape[1] == filters * (4 if layer == "blocks.3.conv" else 1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_narrow_network_is_an_ordinary_one_of_fewer_filters(name, norm):
    network = random_network(lambda: NETWORKS[name](norm)).float().eval()
    before, draw = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    narrow = remove_filters(network, best_filters(network, random_scores(network), 0.5))
    assert torch.equal(torch.get_rng_state(), draw)
    if name == "conv4":
        assert narrow.width == (8, 8, 8, 8)
        settings = {"group_size": narrow.group_size, "image_size": 33, "norm": norm}
        again = Conv4(2, 3, list(narrow.width), **settings)
    else:
        assert narrow.inner == ((8, 8), (4, 4)) * 2 and narrow.widths == network.widths
        again = ResNet12(3, network.widths, 2, norm, [list(pair) for pair in narrow.inner])
    again.load_state_dict(narrow.state_dict())
    x = torch.rand(4, 2, 33, 33)
    assert repr(again) == repr(narrow) and torch.equal(again(x), narrow(x))
    assert type(narrow) is type(network) and narrow.norm == norm and not narrow.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in narrow.parameters())
    with torch.no_grad():
        for p in narrow.parameters():
            p.zero_()
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


@pytest.mark.parametrize("norm", NORMS)
def test_a_narrow_network_can_lose_more(norm):
    network = random_network(lambda: NETWORKS["conv4"](norm))
    scores = random_scores(network)
    once = best_filters(network, scores, 0.25)
    half = best_filters(network, scores, 0.5)
    left = {layer: once[layer][half[layer]] for layer in once}  # the best quarter are among these
    x = torch.rand(3, 2, 33, 33, dtype=torch.float64)
    twice = remove_filters(remove_filters(network, half), left)
    assert torch.equal(twice(x), remove_filters(network, once)(x))


def test_a_filter_is_worth_the_sum_of_its_weights_and_bias():
    network = Conv4(2, 3, width=4, norm="none")
    scores = random_scores(network)
    found = filter_scores(network, scores)
    assert list(found) == list(SURROUNDINGS["conv4"])
    for layer, values in found.items():
        for c in range(4):
            by_hand = sum(scores[f"{layer}.weight"][c].flatten().tolist())
            by_hand += scores[f"{layer}.bias"][c].item()
            assert values[c].item() == pytest.approx(by_hand, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    filters=st.integers(1, 24),
    keep=st.floats(0, 1, exclude_min=True),
    norm=st.sampled_from(NORMS),
    seed=st.integers(0, 1000),
)
def test_the_best_filters_are_kept_as_many_as_asked_for(filters, keep, norm, seed):
    network = Conv4(1, 2, width=filters, norm=norm, image_size=16)
    scores = {"blocks.2.conv.weight": random_scores(network, seed)["blocks.2.conv.weight"]}
    (best,) = best_filters(network, scores, keep).values()
    groups = network.blocks[2].norm.num_groups if norm == "group" else filters
    values = scores["blocks.2.conv.weight"].view(groups, -1).sum(1)
    by_group = best.view(groups, -1)
    assert torch.equal(by_group.all(1), by_group.any(1))
    chosen = by_group.any(1)
    count = int(chosen.sum())
    assert count >= 1 and keep * groups - 1e-6 <= count and count - 1 < keep * groups
    if not chosen.all():
        assert values[chosen].min() >= values[~chosen].max()


@pytest.mark.parametrize(("keep", "left"), [(0.8, 8), (0.9, 9), (0.3, 3), (1.0, 10)])
def test_shares_are_exact_where_their_floats_are_not(keep, left):
    network = Conv4(1, 2, width=10)
    kept = best_filters(network, random_scores(network), keep)
    assert [int(k.sum()) for k in kept.values()] == [left] * 4


def test_the_narrow_network_costs_what_its_channels_cost():
    network = Conv4(1, ways=5, width=32, norm="support")
    kept = best_filters(
        network, random_scores(network), {"blocks.0.conv": 0.25, "blocks.3.conv": 0.5}
    )
    narrow = remove_filters(network, kept)
    channels, sides = (1, 8, 32, 32, 16), (28, 14, 7, 3)
    products = sum(s * s * 9 * channels[i] * channels[i + 1] for i, s in enumerate(sides))
    assert cost.macs(narrow, (1, 28, 28)) == products + 16 * 5
    weights = sum(9 * channels[i] * channels[i + 1] + 2 * channels[i + 1] for i in range(4))
    assert cost.parameters(narrow) == weights + 16 * 5 + 5
    assert cost.size_bytes(narrow) < 0.7 * cost.size_bytes(network)


def test_a_narrow_network_learns_and_is_deployed():
    torch.manual_seed(0)
    network = Conv4(1, ways=5, width=8, norm="support")
    narrow = remove_filters(network, best_filters(network, random_scores(network), 0.5))
    support, query = torch.rand(5, 1, 28, 28), torch.rand(15, 1, 28, 28)
    learner = MAML(narrow, 0.1, 40)
    before, predict = (learner.adapt(support, torch.arange(5), steps=s) for s in (0, 40))
    losses = [F.cross_entropy(p(support), torch.arange(5)) for p in (before, predict)]
    assert losses[1] < 0.5 * losses[0]
    torch.testing.assert_close(predict.deploy()(query), predict(query), rtol=1e-4, atol=1e-4)


# Mistakes


def wrong(**kept):
    network = Conv4(1, 5, width=16, norm=kept.pop("norm", "batch"))
    return lambda: remove_filters(network, {f"blocks.{n[1:]}.conv": k for n, k in kept.items()})


def chosen(*filters):
    mask = torch.zeros(16, dtype=torch.bool)
    mask[list(filters)] = True
    return mask


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (wrong(b7=chosen(0)), r"blocks\.7\.conv cannot lose filters; those that can are blocks\.0"),
        (wrong(b1=chosen()), r"kept\['blocks\.1\.conv'\] must keep a filter at least"),
        (
            wrong(b1=chosen(0)[:9]),
            r"must be boolean of shape \[16\], got torch.bool of shape \[9\]",
        ),
        (wrong(b1=chosen(0).float()), r"must be boolean of shape \[16\], got torch.float32"),
        (wrong(norm="group", b1=chosen(0, 3)), "must keep or drop whole groups of 2 filters"),
        (
            lambda: remove_filters(Conv4(1, 5, (8, 16, 8, 8), "group"), {}),
            r"norms must have groups of one size, got \[1, 2\]",
        ),
        (lambda: filter_scores(Conv4(1, 5), {"head.weight": 0}), r"scores must be of blocks\.0\.c"),
        (
            lambda: filter_scores(Conv4(1, 5, 4), {"blocks.0.conv.weight": torch.ones(4)}),
            r"scores\['blocks\.0\.conv\.weight'\] must have shape \[4, 1, 3, 3\], got \[4\]",
        ),
    ],
)
def test_what_cannot_be_removed(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (0.0, r"keep must be a share in \(0, 1\], got 0\.0 for blocks\.0\.conv"),
        (1.5, r"keep must be a share in \(0, 1\], got 1\.5 for blocks\.0\.conv"),
        ({"head": 0.5}, r"keep names head, but scores are of blocks\.0\.conv, blocks\.1"),
    ],
)
def test_shares_that_are_none(keep, message):
    network = Conv4(1, 5, width=4)
    with pytest.raises(ValueError, match=message):
        best_filters(network, random_scores(network), keep)


def test_a_network_that_cannot_be_followed_is_refused():
    class Deciding(Conv4):
        def embed(self, x, n_support=None):
            return super().embed(x if x.sum() > 0 else -x, n_support)

    network = Deciding(1, 5)
    for call in (lambda: remove_filters(network, {}), lambda: filter_scores(network, {})):
        with pytest.raises(ValueError, match=r"filters of Deciding cannot be removed: torch\.fx"):
            call()


def test_filters_of_other_networks_are_ranked_and_removed():
    network = random_network(lambda: CifarResNet(20, 3))
    kept = best_filters(network, random_scores(network), 0.5)
    assert list(kept) == [f"blocks.{i}.conv1" for i in range(9)]  # the others end in a sum
    narrow = remove_filters(network, kept)
    assert [b.conv1.out_channels for b in narrow.blocks] == [8] * 3 + [16] * 3 + [32] * 3
    with pytest.raises(ValueError, match=r"blocks\.0\.conv2 cannot lose filters: add needs all"):
        remove_filters(network, {"blocks.0.conv2": chosen(3)})
