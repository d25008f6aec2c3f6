"""Taking blocks out: identities B2, B3, B4 and B9's budget, and the paper's own arithmetic."""

import random

import pytest
import torch
from gate_cases import gated, images, lively, resnet
from hypothesis import given, settings
from hypothesis import strategies as st

from metalearn_tut.block_voting import block_budget, prunable_blocks, remove_blocks
from metalearn_tut.block_voting.surgery import most_prunable
from metalearn_tut.evaluation import cost
from metalearn_tut.models import CifarResNet, Conv4, ResNet12

IMAGE = (3, 32, 32)
PLAIN = 4_718_592  # multiply-adds of a block that changes no shape
NETWORK = lively(gated())
PLAIN_BLOCKS = prunable_blocks(NETWORK.network)


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(st.sets(st.sampled_from(PLAIN_BLOCKS)), st.sampled_from(["skipnet", "aig"]))
def test_B2_a_shorter_network_is_the_one_with_masks_of_0_and_1(gone, mixing):
    NETWORK.mixing = mixing
    shorter, x = remove_blocks(NETWORK, gone), images()
    masks = torch.tensor([float(i not in gone) for i in range(9)], dtype=torch.float64)
    torch.testing.assert_close(shorter(x), NETWORK(x, masks), rtol=0, atol=1e-11)
    own, whole = shorter.state_dict(), NETWORK.network.state_dict()
    assert own.keys() <= whole.keys() and all(torch.equal(t, whole[n]) for n, t in own.items())
    assert len(shorter.blocks) == 9 - len(gone)


def test_removing_blocks_leaves_the_network_as_it_was_and_can_go_on():
    network = resnet()
    once = remove_blocks(network, [1, 4])
    twice = remove_blocks(once, [5])
    names = [name for name, _ in twice.blocks.named_children()]
    assert names == ["0", "2", "3", "6", "7", "8"] and len(network.blocks) == 9
    assert prunable_blocks(twice) == (0, 2, 7, 8)
    twice.stem[0].weight.data.zero_()
    assert network.stem[0].weight.any()


def test_a_shorter_network_is_loaded_into_its_architecture():
    shorter = remove_blocks(gated(), [1, 4])
    again = remove_blocks(resnet(seed=1), [1, 4])
    again.load_state_dict(shorter.state_dict())
    x = images().float()
    assert torch.equal(again.eval()(x), shorter.eval()(x))


# B3: the reductions of the paper's table, in percent (RN56 at 0.2 with four blocks)
@pytest.mark.parametrize(
    ("depth", "blocks", "ratio", "reduction"),
    [
        (32, 6, 0.4, 41.1),
        (32, 9, 0.6, 61.7),
        (56, 4, None, 15.0),
        (56, 10, 0.4, 37.6),
        (56, 16, 0.6, 60.2),
    ],
)
def test_B3_the_reductions_of_the_papers_table(depth, blocks, ratio, reduction):
    network = CifarResNet(depth)
    if ratio is not None:
        assert block_budget(network, ratio) == blocks
    whole = cost.macs(network, IMAGE)
    assert whole == {32: 68_862_592, 56: 125_485_696}[depth]
    any_of_them = random.Random(blocks).sample(prunable_blocks(network), blocks)
    left = cost.macs(remove_blocks(network, any_of_them), IMAGE)
    assert whole - left == blocks * PLAIN
    assert abs(100 * (1 - left / whole) - reduction) <= 0.05


def test_B3_resnet_110_by_the_same_arithmetic():
    network = CifarResNet(110)
    whole = cost.macs(network, IMAGE)
    assert whole == 442_368 + 52 * PLAIN + 2 * 3_538_944 + 640
    gone = prunable_blocks(network)[: block_budget(network, 0.4)]
    assert whole - cost.macs(remove_blocks(network, gone), IMAGE) == 21 * PLAIN


def test_B3_gates_cost_nothing_once_they_are_gone():
    network, shape = gated(), (3, 8, 8)
    assert cost.macs(network, shape) > cost.macs(resnet(), shape)
    assert cost.macs(remove_blocks(network, []), shape) == cost.macs(resnet(), shape)


def test_B4_most_of_the_blocks_may_go():
    assert [most_prunable(resnet(depth)) for depth in (32, 56)] == [13, 25]
    assert [most_prunable(gated(depth, gate="alone")) for depth in (32, 56)] == [12, 24]
    model = gated()
    model.prune(2)
    assert prunable_blocks(model) == (1, 4, 5, 7, 8) and most_prunable(model) == 6


@pytest.mark.parametrize(
    ("depth", "ratio", "blocks"), [(56, 0.2, 5), (56, 0, 0), (20, 0.34, 3), (20, 5 / 9, 5)]
)
def test_B9_the_budget_rounds_down_a_share_of_all_blocks(depth, ratio, blocks):
    assert block_budget(resnet(depth), ratio) == blocks


# Bad input


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_ratios_that_cannot_be(ratio):
    with pytest.raises(ValueError, match=rf"ratio must be in \[0, 1\), got {ratio}"):
        block_budget(resnet(), ratio)


def test_ratios_beyond_what_may_be_pruned_say_how_many_may():
    with pytest.raises(ValueError, match=r"ratio=0.9 of 9 blocks is 8, but 7 may be pruned"):
        block_budget(resnet(), 0.9)
    with pytest.raises(ValueError, match=r"ratio=0.8 of 9 blocks is 7, but 6 may be pruned"):
        block_budget(gated(), 0.8)


@pytest.mark.parametrize("block", [3, 9, -1])
def test_blocks_that_cannot_be_removed(block):
    with pytest.raises(ValueError, match=rf"block {block} is absent, .* \(0, 1, 2, 4"):
        remove_blocks(CifarResNet(20), [1, block])


@pytest.mark.parametrize("network", [Conv4(3, 5), ResNet12(5, widths=(8, 8, 8, 8))])
@pytest.mark.parametrize(
    "call", [prunable_blocks, lambda n: block_budget(n, 0.5), lambda n: remove_blocks(n, [1])]
)
def test_networks_without_such_blocks(network, call):
    with pytest.raises(
        TypeError, match=f"{type(network).__name__} has no residual blocks that are known"
    ):
        call(network)
