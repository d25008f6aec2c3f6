"""Gates and gated networks: identities B1, B4 and B7, and networks without gates as they were."""

import copy

import pytest
import torch
import torch.nn.functional as F
from gate_cases import gated, images, lively, resnet, same_state
from torch import nn

from metalearn_tut import MAML, tasks
from metalearn_tut.block_voting.networks.block_gate import GATE_KINDS, BlockGate
from metalearn_tut.block_voting.networks.block_gated import BlockGated
from metalearn_tut.block_voting.networks.block_gated_resnet12 import BlockGatedResNet12
from metalearn_tut.block_voting.networks.blocks import MIXINGS, mix
from metalearn_tut.models import Conv4, ResNet12, deploy, inputs
from metalearn_tut.models.random_masks import MASKINGS, gumbel_mask, hard_mask
from metalearn_tut.models.resnet12 import ResidualBlock, ShortcutBlock

# Gates


@pytest.mark.parametrize("kind", GATE_KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_B7_marks_are_soft_in_both_modes(kind, training):
    gate = lively(BlockGate(kind, 16)).train(training)
    marks = gate(4 * images(6, channels=16))
    assert marks.shape == (6, 1, 1, 1) and marks.min() >= 0 and marks.max() <= 1
    assert ((marks > 0) & (marks < 1)).all() and len(marks.unique()) == 6


@pytest.mark.parametrize("kind", GATE_KINDS)
def test_gates_start_open(kind):
    torch.manual_seed(0)
    marks = BlockGate(kind, 32)(images(8, channels=32).float())
    assert marks.min() > 0.85 and marks.max() < 0.95


def conv_norm_relu(x, conv, norm, stride):
    x = F.conv2d(x, conv.weight, stride=stride, padding=1)
    mean, var, scale, shift = (
        t.view(-1, 1, 1) for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return ((x - mean) / (var + norm.eps).sqrt() * scale + shift).clamp(min=0)


def mark_by_hand(features, head):
    logits = features.mean((2, 3)) @ head.weight[:, :, 0, 0].T + head.bias
    return 1 / (1 + (logits[:, 0] - logits[:, 1]).exp())


@pytest.mark.parametrize("side", [8, 7, 2, 1])
def test_soft_gate_1_written_out(side):
    gate, x = lively(BlockGate("soft1", 4)), images(5, side, channels=4)
    y = F.pad(x, (0, side % 2, 0, side % 2), value=-9.0)  # an odd side has half a window left
    y = y.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    y = conv_norm_relu(y, gate.features[1], gate.features[2], 1)
    y = conv_norm_relu(y, gate.features[4], gate.features[5], 2)
    torch.testing.assert_close(gate(x).flatten(), mark_by_hand(y, gate.head))


def test_soft_gate_2_written_out():
    gate, x = lively(BlockGate("soft2", 4)), images(5, channels=4)
    y = conv_norm_relu(x, gate.features[0], gate.features[1], 2)
    torch.testing.assert_close(gate(x).flatten(), mark_by_hand(y, gate.head))


def test_alone_marks_each_image_by_itself():
    gate, x = lively(BlockGate("alone", 4)).train(), images(5, channels=4)
    torch.testing.assert_close(gate(x)[2:3], gate(x[2:3]), rtol=0, atol=1e-14)


# Masks


def test_hard_masks_are_exactly_0_or_1_with_the_gradient_of_the_mark():
    marks = torch.rand(1000, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weights = torch.arange(1000.0)
    (hard_mask(marks) * weights).sum().backward()
    assert torch.equal(hard_mask(marks), (marks > 0.5).float())
    assert torch.equal(marks.grad, weights)


def test_gumbel_masks_open_with_the_probability_of_the_mark():
    torch.manual_seed(0)
    for mark in (0.1, 0.5, 0.97):
        masks = gumbel_mask(torch.full((40_000,), mark, dtype=torch.float64))
        assert set(masks.tolist()) == {0.0, 1.0}
        assert abs(masks.mean() - mark) < 4 * (mark * (1 - mark) / 40_000) ** 0.5


def test_the_gradient_of_a_gumbel_mask_is_that_of_its_soft_sample():
    marks = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    (found,) = torch.autograd.grad(gumbel_mask(marks).sum(), marks)
    torch.manual_seed(3)
    first = torch.rand_like(marks)
    # two Gumbel variables whose difference is this noise: a softmax over "off" and "on"
    scores = torch.stack([(1 - marks).log(), marks.log() + (first / (1 - first)).log()])
    (expected,) = torch.autograd.grad(scores.softmax(0)[1].sum(), marks)
    torch.testing.assert_close(found, expected)


# Mixing


@pytest.mark.parametrize("mixing", MIXINGS)
def test_B1_a_mask_of_1_is_the_block_and_a_mask_of_0_its_shortcut(mixing):
    network = lively(resnet())
    for i, channels in ((1, 16), (3, 16), (8, 64)):  # plain, changing the shape, plain
        block, x = network.blocks[i], images(3, channels=channels)  # not negative, as after a ReLU
        on, off = torch.ones(3, 1, 1, 1).double(), torch.zeros(3, 1, 1, 1).double()
        assert torch.equal(mix(block, x, on, mixing), block(x))
        assert torch.equal(mix(block, x, off, mixing), block.shortcut(x))


def test_mixings_written_out():
    block, x = lively(resnet()).blocks[1], images(3, channels=16)
    m = torch.tensor([0.2, 0.5, 0.9]).double().view(3, 1, 1, 1)
    branch = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    skipnet = m * F.relu(x + branch) + (1 - m) * x
    torch.testing.assert_close(mix(block, x, m, "skipnet"), skipnet, rtol=0, atol=1e-14)
    aig = F.relu(x + m * branch)
    torch.testing.assert_close(mix(block, x, m, "aig"), aig, rtol=0, atol=1e-14)
    assert (skipnet - aig).abs().max() > 0.01


# BlockGated


def test_without_gates_the_network_is_bitwise_the_formula():
    network, x = resnet().eval(), images().float()
    y = network.stem(inputs.prefer_channels_last(x))
    for block in network.blocks:
        branch = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(y)))))
        y = F.relu(block.shortcut(y) + branch)
    assert torch.equal(network(x), network.head(y.mean((2, 3))))


@pytest.mark.parametrize("mixing", MIXINGS)
def test_masks_of_1_are_the_network_without_gates(mixing):
    network, x = lively(resnet()), images()
    model = BlockGated(network, mixing=mixing).eval()
    torch.testing.assert_close(model(x, torch.ones(9).double()), network(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("mixing", MIXINGS)
def test_gates_read_the_output_of_the_block_before(mixing):
    model, x = lively(gated(mixing=mixing)), images()
    y, marks = model.network.stem(x), [torch.ones(4).double()]  # the first block has no gate
    y = model.network.blocks[0](y)
    for i in range(1, 9):
        mark = model.gates[str(i)](y)
        marks.append(mark.flatten())
        y = mix(model.network.blocks[i], y, mark, mixing)
    logits, found = model.run(x)
    torch.testing.assert_close(found, torch.stack(marks, 1))
    torch.testing.assert_close(logits, model.network.head(y.mean((2, 3))))
    torch.testing.assert_close(model(x, found), logits)  # one mask for each image and block


@pytest.mark.parametrize("masking", MASKINGS)
def test_B7_marks_stay_soft_whatever_the_masks_are(masking):
    model, x = lively(gated(masking=masking)), images()
    logits, marks = model.run(x)
    soft = marks[:, 1:]
    assert ((soft > 0) & (soft < 1)).all()
    masks = marks if masking == "soft" else (marks > 0.5).double()
    torch.testing.assert_close(model(x, masks), logits)
    assert not marks.gt(0.5).all()


def test_gumbel_masks_are_random_in_training_only():
    model, x = lively(gated(masking="gumbel")), images()
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize(("depth", "with_first"), [(32, 13), (56, 25)])
def test_B4_candidates_change_no_shape_and_have_a_gate(depth, with_first):
    network = resnet(depth)
    plain = [i for i, block in enumerate(network.blocks) if block.stride == 1]
    first = BlockGated(network, "alone", gate_first=True)
    assert first.candidates == tuple(plain) and len(plain) == with_first
    assert len(first.gates) == with_first + 2
    for gate_transitions, gates in ((True, with_first + 1), (False, with_first - 1)):
        model = BlockGated(network, "alone", gate_transitions=gate_transitions)
        assert model.candidates == tuple(plain[1:]) and len(model.gates) == gates


def test_a_pruned_block_is_skipped():
    model, x = lively(gated()), images()
    marks = model.marks(x)
    model.prune(4)
    masks = model.marks(x)
    assert model.candidates == (1, 2, 5, 7, 8) and model.pruned == {4}
    assert torch.equal(masks[:, 4], torch.zeros(4).double())
    torch.testing.assert_close(masks[:, :4], marks[:, :4])  # what comes before is as it was
    torch.testing.assert_close(model(x), model(x, masks))


def test_pruned_blocks_are_part_of_the_state():
    model = gated()
    model.prune(5), model.prune(1)
    other = gated(seed=1)
    other.load_state_dict(model.state_dict())
    assert other.pruned == {1, 5} and same_state(model, other)
    assert copy.deepcopy(model).pruned == {1, 5}


@pytest.mark.parametrize("block", [0, 3, 6, 9, 4])
def test_blocks_that_cannot_be_pruned(block):
    model = gated()
    model.prune(4)
    with pytest.raises(ValueError, match=rf"block {block} cannot be pruned; these can: \(1, 2, 5"):
        model.prune(block)


@pytest.mark.parametrize(
    ("error", "build", "message"),
    [
        (
            TypeError,
            lambda: BlockGated(Conv4(3, 5)),
            "Conv4 has no residual blocks that are known: name",
        ),
        (ValueError, lambda: gated(gate="rnn"), "gate must be one of 'soft1', .* got 'rnn'"),
        (ValueError, lambda: gated(masking="on"), "masking must be one of 'soft', .* got 'on'"),
        (ValueError, lambda: gated(mixing="add"), "mixing must be one of 'skipnet', 'aig'"),
        (ValueError, lambda: BlockGate("soft1", 0), "channels must be at least 1, got 0"),
        (ValueError, lambda: gated()(images(1, channels=1)), r"x must be images \[B, 3, H, W\]"),
        (TypeError, lambda: BlockGatedResNet12(resnet()), "must be a ResNet12, got CifarResNet"),
    ],
)
def test_bad_input(error, build, message):
    with pytest.raises(error, match=message):
        build()


# BlockGatedResNet12


def resnet12(norm="support"):
    torch.manual_seed(0)
    return ResNet12(3, widths=(8, 8, 16, 16), norm=norm)


@pytest.mark.parametrize("norm", ["support", "group"])
def test_few_shot_masks_multiply_the_residual_branch(norm):
    block, x = lively(ResidualBlock(8, 8, norm)), images(4, 16, channels=8) - 0.5
    m = torch.tensor([0.0, 0.3, 0.7, 1.0]).double().view(4, 1, 1, 1)
    branch = x
    for i, (conv, layer) in enumerate(zip(block.convs, block.norms, strict=True)):
        branch = layer(conv(F.leaky_relu(branch, 0.1) if i else branch))
    identity = block.shortcut_norm(block.shortcut(x))
    expected = F.leaky_relu(F.max_pool2d(m * branch + identity, 2), 0.1)
    torch.testing.assert_close(block(x, mask=m), expected, rtol=0, atol=1e-12)
    assert torch.equal(block(x, mask=torch.ones_like(m)), block(x))
    assert torch.equal(block(x, mask=torch.zeros_like(m)), ShortcutBlock(block)(x))


def test_few_shot_gates_read_the_output_of_the_block_before():
    model, x = lively(BlockGatedResNet12(resnet12())), images(5, 16)
    y, marks = model.blocks[0](x, 3), [torch.ones(5).double()]
    for i in (1, 2, 3):
        mark = model.gates[str(i)](y)
        marks.append(mark.flatten())
        y = model.blocks[i](y, 3, mark)
    torch.testing.assert_close(model.marks(x, 3), torch.stack(marks, 1))
    torch.testing.assert_close(model(x, 3), model.head(y.mean((2, 3))))


def test_a_pruned_few_shot_block_keeps_its_shortcut():
    model, x = lively(BlockGatedResNet12(resnet12())), images(5, 16)
    nn.init.constant_(model.gates["2"].head.weight, 0.0)
    model.gates["2"].head.bias.data = torch.tensor([1e4, 0.0]).double()  # its mark is exactly 0
    expected, names = model(x, 3), set(model.state_dict())
    model.prune(2)
    torch.testing.assert_close(model(x, 3), expected, rtol=0, atol=1e-12)
    assert model.candidates == (1, 3) and not model.marks(x)[:, 2].any()
    assert set(model.state_dict()) < names
    with pytest.raises(ValueError, match=r"block 2 cannot be pruned; these can: \(1, 3\)"):
        model.prune(2)


def test_without_its_gates_it_is_the_network_it_was():
    network, x = lively(resnet12()), images(5, 16)
    plain = BlockGatedResNet12(network).ungated()
    assert type(plain) is ResNet12 and same_state(plain, network)
    assert torch.equal(plain(x, 3), network(x, 3))


def test_taking_its_gates_away_keeps_modes_and_pruned_blocks_and_draws_no_numbers():
    gated12 = BlockGatedResNet12(lively(resnet12())).eval()
    gated12.blocks[1].train()
    gated12.prune(2)
    state, modes = torch.get_rng_state(), {n: m.training for n, m in gated12.named_modules()}
    plain = gated12.ungated()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(m.training == modes[n] for n, m in plain.named_modules())
    assert isinstance(plain.blocks[2], ShortcutBlock) and plain.blocks[2] is not gated12.blocks[2]


def test_few_shot_gates_are_meta_learned_and_deployed():
    model = BlockGatedResNet12(resnet12()).double()
    learner = MAML(model, inner_lr=0.1, inner_steps=2)  # the first moves a head of zeros only
    source = tasks.from_arrays(images(30, 16).float(), torch.arange(30) % 5)
    sampler = source.sampler(3, 1, 2)
    learner.task_losses(sampler.batch(0, 2)).losses.mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.gates["3"].parameters())
    task = sampler[0]
    predict = learner.adapt(task.support_x, task.support_y)
    support, query = task.support_x.double(), task.query_x.double()
    with torch.no_grad():
        adapted = deploy(model, predict.params, support)
        alone = torch.cat([adapted.marks(x[None]) for x in query])
        torch.testing.assert_close(alone, predict.deploy().marks(query))
    assert not torch.equal(predict.params["gates.3.head.bias"], model.gates["3"].head.bias)
