"""Block voting on a network that is none of ours: from gates over votes to a shorter network."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from gate_cases import images, labelled, lively, same_state
from torch import nn

from metalearn_tut.block_voting import (
    BlockGated,
    Recipe,
    abp_prune,
    block_budget,
    collect_votes,
    prunable_blocks,
    remove_blocks,
)
from metalearn_tut.block_voting.networks.blocks import named_blocks, with_modules

NAMES = ["layer1.0", "layer1.1", "layer2.1", "tail.last"]


class PreActivation(nn.Module):
    """``x + conv(relu(norm(x)))``; a projection where it changes the shape."""

    def __init__(self, channels, out_channels=None, stride=1):
        super().__init__()
        out = out_channels or channels
        self.norm, self.conv = nn.BatchNorm2d(channels), nn.Conv2d(channels, out, 3, stride, 1)
        self.downsample = nn.Conv2d(channels, out, 1, stride) if out != channels else None

    def forward(self, x):
        branch = self.conv(self.norm(x).relu())
        return branch + (x if self.downsample is None else self.downsample(x))


class Theirs(nn.Module):
    """Two layers of blocks in a row, and a block that is asked for by its name."""

    def __init__(self, ways=4):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.layer1 = nn.Sequential(PreActivation(8), PreActivation(8))
        self.layer2 = nn.Sequential(PreActivation(8, 12, stride=2), PreActivation(12))
        self.tail = nn.ModuleDict({"last": PreActivation(12)})
        self.fc = nn.Linear(12, ways)

    def forward(self, x):
        x = self.layer2(self.layer1(self.first(x)))
        return self.fc(self.tail["last"](x).mean((2, 3)))


def theirs(seed=0):
    torch.manual_seed(seed)
    return Theirs()


def gated(gate="alone", blocks=NAMES, **settings):
    torch.manual_seed(1)
    return BlockGated(theirs(), gate, blocks=blocks, **settings)


def by_hand(network, x, keep=(1, 1, 1, 1), gates=None):
    """The forward pass written out: what each named block is multiplied by, and the logits."""
    marks = []

    def weighed(block, x):
        gate = None if gates is None else gates[str(len(marks))]
        mark = (
            torch.tensor(float(keep[len(marks)])).expand(len(x), 1, 1, 1)
            if gate is None
            else gate(x)
        )
        marks.append(mark.flatten())
        return mark * block(x) + (1 - mark) * x

    y = network.first(x)
    for block in network.layer1:
        y = weighed(block, y)
    y = weighed(network.layer2[1], network.layer2[0](y))
    y = weighed(network.tail["last"], y)
    return network.fc(y.mean((2, 3))), torch.stack(marks, 1)


@pytest.mark.parametrize("gate", ["alone", "soft1", "pooled"])
def test_gates_weigh_the_blocks_that_are_named(gate):
    model, x = lively(gated(gate)), images()
    logits, marks = model.run(x)
    expected, of_hand = by_hand(model.network, x, gates=model.gates)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(marks, of_hand)
    assert ((marks > 0) & (marks < 1)).all() and model.candidates == (0, 1, 2, 3)
    assert not hasattr(model, "classes") and same_state(gated(gate).network, theirs())


@pytest.mark.parametrize("gone", [(), (0,), (1, 2), (3,), (0, 1, 2, 3)])
def test_a_shorter_network_is_the_one_with_masks_of_0_and_1(gone):
    model, x = lively(gated()), images()
    keep = [float(n not in gone) for n in range(4)]
    short = remove_blocks(model, gone)
    expected, _ = by_hand(model.network, x, keep)
    torch.testing.assert_close(short(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(model(x, torch.tensor(keep).double()), expected)
    for n in gone:
        model.prune(n)
    torch.testing.assert_close(model(x), model(x, model.marks(x)), rtol=0, atol=1e-12)
    whole, left = model.network.state_dict(), short.state_dict()
    gone_names = tuple(f"{NAMES[n]}." for n in gone)
    assert left.keys() == {n for n in whole if not n.startswith(gone_names)}
    assert type(short) is Theirs and len(model.network.layer1) == 2


def test_from_gates_over_votes_to_a_shorter_network_and_resumed(tmp_path):
    data, recipes = labelled(12), (Recipe(2, 0.05, batch=4), Recipe(1, 0.02), Recipe(1, 0.02))
    run = {"n_prune": 2, "recipes": recipes, "held_out": data, "progress": False}
    network = gated()
    done = abp_prune(network, data, **run, out=tmp_path)
    removed = [block for each in done.rounds for block in each.removed]
    assert len(set(removed)) == 2 and [sum(r.votes.counts) for r in done.rounds] == [12, 12]
    blocks = [m for m in done.network.modules() if isinstance(m, PreActivation)]
    assert type(done.network) is Theirs and len(blocks) == 3 and not network.pruned
    assert done.network(images().float()).shape == (4, 4)
    again = abp_prune(network, data, **run, out=tmp_path, resume=True)
    assert same_state(again.network, done.network) and again.rounds == done.rounds
    first = collect_votes(lively(network), images(6))
    assert first.candidates == (0, 1, 2, 3) and sum(first.counts) == 6


def test_the_budget_counts_what_is_named_and_frozen_blocks_stay():
    network = theirs()
    network.layer1[1].requires_grad_(False)
    model = BlockGated(network, blocks=NAMES)
    assert prunable_blocks(model) == model.candidates == (0, 2, 3)
    assert block_budget(model, 0.6) == 2
    with pytest.raises(ValueError, match=r"block 1 is absent, frozen or changes the shape"):
        remove_blocks(model, [1])


def test_a_block_with_a_shortcut_of_its_own_is_gated_and_stays():
    network = theirs()
    network.layer2[0].shortcut = network.layer2[0].downsample
    model = lively(BlockGated(network, "alone", blocks=["layer1.0", "layer2.0"]))
    assert model.candidates == (0,) and len(model.gates) == 2
    x = images()
    y = model.network.layer1(model.network.first(x))
    skipped = model(x, torch.tensor([1.0, 0.0]).double())
    y = model.network.layer2[1](model.network.layer2[0].shortcut(y))
    expected = model.network.fc(model.network.tail["last"](y).mean((2, 3)))
    torch.testing.assert_close(skipped, expected, rtol=0, atol=1e-12)


class ByNumber(Theirs):
    """Asks for the blocks of a row by their number, and does something behind one of them."""

    def forward(self, x):
        x = self.layer1[0](self.first(x)).tanh()
        x = self.layer2(self.layer1[-1](x))
        return self.fc(self.tail["last"](x).mean((2, 3)))


@pytest.mark.parametrize("gone", [0, 1])
def test_blocks_that_are_asked_for_by_number_are_so_without_one(gone):
    torch.manual_seed(0)
    model, x = lively(BlockGated(ByNumber(), "alone", blocks=NAMES)), images()
    keep = torch.tensor([float(n != gone) for n in range(4)]).double()
    short = remove_blocks(model, [gone])
    torch.testing.assert_close(short(x), model(x, keep), rtol=0, atol=1e-12)


class Writes(PreActivation):
    """Writes into its input."""

    def forward(self, x):
        return x.add_(self.conv(self.norm(x))).relu_()


def test_a_block_that_writes_into_its_input_is_left_out_all_the_same():
    network = theirs()
    network.layer1[1] = Writes(8)
    model, x = lively(BlockGated(network, "alone", blocks=["layer1.1"])), images()
    short = remove_blocks(model, [0])
    torch.testing.assert_close(model(x, torch.zeros(1).double()), short(x), rtol=0, atol=1e-12)


class Padded(PreActivation):
    """Half the pixels and zeros for channels that are new: a shortcut without parameters."""

    def shortcut(self, x):
        return torch.cat([x[..., ::2, ::2], x.new_zeros(len(x), 4, *x[0, 0, ::2, ::2].shape)], 1)


class Averaged(nn.Module):
    """Normalizes in its shortcut, and keeps the shape."""

    def __init__(self):
        super().__init__()
        self.conv, self.shortcut = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8, affine=False)

    def forward(self, x):
        return self.shortcut(x) + self.conv(x)


def test_a_block_whose_shortcut_changes_the_picture_stays_and_is_not_changed_by_the_question():
    network = theirs()
    network.layer1[0], network.layer2[0] = Averaged(), Padded(8, 12, stride=2)
    model = BlockGated(network, "alone", blocks=["layer1.0", "layer1.1", "layer2.0", "layer2.1"])
    assert model.training and model.candidates == (1, 3)
    assert not model.network.layer1[0].shortcut.running_mean.any()
    with pytest.raises(ValueError, match=r"block 2 cannot be pruned; these can: \(1, 3\)"):
        model.prune(2)


def test_threads_may_run_one_gated_network_at_once():
    model = lively(gated())
    batches = [images(seed=seed) for seed in range(8)]
    alone = [model.run(x) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(model.run, batches))
    for a, b in zip(alone, together, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_a_view_has_the_networks_own_layers_but_those_replaced():
    network, other = theirs(), nn.Identity()
    view = with_modules(network, {"layer1.1": other, "tail.last": other})
    assert view.layer1[1] is other is view.tail["last"] and view.layer1[0] is network.layer1[0]
    assert view.layer2 is network.layer2 and network.layer1[1] is not other


class Scaled(PreActivation):
    """Reads more than one tensor."""

    def forward(self, x, scale=1.0):
        return scale * super().forward(x)


class Pair(PreActivation):
    """Gives more than one tensor."""

    def forward(self, x):
        return super().forward(x), x


def rowed(block, call):
    """A network of one block, called by ``call``."""
    torch.manual_seed(0)
    network = Chained(block, call)
    return BlockGated(network, "alone", blocks=["block"])(images().float())


class Chained(nn.Module):
    def __init__(self, block, call):
        super().__init__()
        self.first, self.block, self.call = nn.Conv2d(3, 8, 3), block, call

    def forward(self, x):
        return self.call(self.block, self.first(x)).mean((2, 3))


class Odd(Theirs):
    """Calls a block twice, and another one never."""

    def forward(self, x):
        return self.fc(self.layer2(self.layer1[0](self.layer1[0](self.first(x)))).mean((2, 3)))


@pytest.mark.parametrize(
    ("error", "build", "said"),
    [
        (TypeError, lambda: BlockGated(Theirs()), "Theirs has no residual blocks that are known"),
        (TypeError, lambda: prunable_blocks(Theirs()), "name those that may go, BlockGated"),
        (ValueError, lambda: gated(blocks=["layer9.0"]), "blocks: 'layer9.0' is no module of Thei"),
        (
            ValueError,
            lambda: gated(blocks="layer1.0"),
            "blocks must be a list .* got 'layer1.0'",
        ),
        (
            ValueError,
            lambda: gated(blocks=[]),
            r"blocks must be a list of names, at least one",
        ),
        (
            ValueError,
            lambda: rowed(Scaled(8), lambda block, x: block(x, scale=2.0)),
            "blocks: one is called with more than its input",
        ),
        (
            ValueError,
            lambda: rowed(Pair(8), lambda block, x: block(x)[0]),
            r"a block \(Pair\) must give a tensor, got a tuple",
        ),
        (ValueError, lambda: gated(blocks=[""]), "blocks: '' is no module of Theirs"),
        (ValueError, lambda: gated(blocks=["layer1", "layer1.0"]), "'layer1.0' is named twice, or"),
        (ValueError, lambda: gated(blocks=["layer1.0", "layer1"]), "'layer1' is named twice, or"),
        (ValueError, lambda: gated(blocks=["layer1.0"] * 2), "'layer1.0' is named twice"),
        (ValueError, lambda: gated(blocks=["fc"]), r"a block \(Linear\) has no convolution"),
        (ValueError, lambda: gated(mixing="aig"), "mixing='aig' needs blocks with methods short"),
        (
            ValueError,
            lambda: gated(blocks=["layer2.0"])(images().float()),
            r"a block \(PreActivation\) makes \[12, 4, 4\] of \[8, 8, 8\]: name only blocks that",
        ),
        (
            ValueError,
            lambda: BlockGated(Odd(), "alone", blocks=["layer1.0"])(images().float()),
            "blocks: 'layer1.0' is called twice; name another",
        ),
        (
            ValueError,
            lambda: BlockGated(Odd(), "alone", blocks=["layer1.1"])(images().float()),
            "blocks: 'layer1.1' was not called",
        ),
    ],
)
def test_what_cannot_be_gated_is_named(error, build, said):
    with pytest.raises(error, match=said) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_blocks_are_numbered_in_the_order_of_their_names():
    assert named_blocks(theirs(), NAMES[::-1]) == dict(enumerate(NAMES[::-1]))
    model, x = lively(gated()), images()
    other = lively(gated(blocks=NAMES[::-1]))
    for n in range(4):
        other.gates[str(n)].load_state_dict(model.gates[str(3 - n)].state_dict())
    other.network.load_state_dict(model.network.state_dict())
    torch.testing.assert_close(other.marks(x), model.marks(x).flip(1))
