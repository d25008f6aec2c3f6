"""Block voting: frozen parts, modes of layers, augmentation, whole numbers."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from gate_cases import gated, images, labelled, lively, resnet
from torch import nn

from metalearn_tut import MAML, block_voting, models, tasks
from metalearn_tut.block_voting import (
    BlockGated,
    BlockGatedResNet12,
    Recipe,
    abp_prune,
    collect_votes,
    count_votes,
    crop_and_flip,
    prunable_blocks,
    remove_blocks,
    soft_filter_prune,
    stages,
    standard_recipes,
    train_epochs,
    vote_and_prune,
    vote_by_tasks,
    zero_filters,
)
from metalearn_tut.block_voting.images import answers
from metalearn_tut.evaluation import cost
from metalearn_tut.models import ResNet12

QUIET = {"progress": False}
FAST = Recipe(1, 0.5, batch=4, weight_decay=0.1)


def state(network):
    return {n: t.detach().clone() for n, t in network.state_dict().items()}


def frozen(network):
    return {n for n, p in network.named_parameters() if not p.requires_grad}


def freeze(network, *parts):
    for part in parts:
        network.get_submodule(part).requires_grad_(False)
    return network


def changed(before, network):
    return {n for n, t in network.state_dict().items() if not torch.equal(t, before[n])}


# Frozen means frozen, running statistics included


def test_a_frozen_layer_is_not_trained_and_its_statistics_stand_still():
    """Weight decay and momentum, too, leave it alone; all others move."""
    network = freeze(lively(resnet()).float(), "stem", "blocks.2")
    before = state(network)
    train_epochs(network, labelled(8), Recipe(2, 0.1, batch=4, weight_decay=0.1), **QUIET)
    moved = changed(before, network)
    assert not any(n.startswith(("stem.", "blocks.2.")) for n in moved)
    free = {n for n in before if not n.startswith(("stem.", "blocks.2."))}
    assert moved == free


def test_it_is_the_training_of_the_others_alone():
    """Right value: SGD written out on the parameters that are free, frozen norms in eval mode."""
    network, (x, y) = freeze(lively(resnet()), "stem", "blocks.0.bn1"), labelled(8)
    by_hand = copy.deepcopy(network)
    train_epochs(network, (x, y), Recipe(1, 0.05, batch=8, momentum=0.0, weight_decay=0.0), **QUIET)
    by_hand.train()
    for fixed in (by_hand.stem, by_hand.blocks[0].bn1):
        fixed.eval()
    free = {n: p for n, p in by_hand.named_parameters() if p.requires_grad}
    loss = nn.functional.cross_entropy(by_hand(x.double() / 255), y)
    for p, g in zip(free.values(), torch.autograd.grad(loss, [*free.values()]), strict=True):
        p.data -= 0.05 * g
    for n, t in by_hand.state_dict().items():
        torch.testing.assert_close(network.state_dict()[n], t, rtol=1e-9, atol=1e-12)


def test_a_frozen_part_does_not_drop_units_and_half_a_norm_is_no_frozen_one():
    body = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).requires_grad_(False)
    norm = nn.BatchNorm1d(4)
    norm.weight.requires_grad_(False)
    network = nn.Sequential(body, norm, nn.Linear(4, 2))
    modes = []

    def objective(network, x, y):
        modes.append({n: m.training for n, m in network.named_modules()})
        return block_voting.cross_entropy(network, x, y)

    train_epochs(network, (torch.randn(8, 4), torch.arange(8) % 2), Recipe(1), objective, **QUIET)
    assert modes[0] == {
        "": True, "0": False, "0.0": False, "0.1": False, "1": True, "2": True,
    }  # fmt: skip
    assert norm.running_mean.any()


@pytest.mark.parametrize("call", ["train_epochs", "abp_prune"])
def test_a_network_that_is_frozen_throughout_is_refused_before_any_work(tmp_path, call):
    network = resnet().requires_grad_(False)
    with pytest.raises(ValueError, match=r"CifarResNet can be trained: all are frozen"):
        if call == "train_epochs":
            train_epochs(network, labelled(4), FAST, file=tmp_path / "a.safetensors", **QUIET)
        else:
            abp_prune(network, labelled(4), n_prune=1, recipes=(FAST,) * 3, out=tmp_path, **QUIET)
    assert not list(tmp_path.iterdir())


def test_frozen_blocks_are_no_candidates_and_said_to_be_frozen():
    network = freeze(resnet(), "blocks.1", "blocks.4.bn2")
    assert prunable_blocks(network) == (0, 2, 5, 7, 8)
    assert BlockGated(network).candidates == (2, 5, 7, 8)
    with pytest.raises(ValueError, match=r"but 4 may be pruned \(2 are frozen: requires_grad"):
        block_voting.block_budget(BlockGated(network), 0.6)
    with pytest.raises(ValueError, match="block 1 is absent, frozen or changes the shape"):
        remove_blocks(network, [1])
    votes = collect_votes(BlockGated(network), images(6).float())
    assert votes.candidates == (2, 5, 7, 8) and sum(votes.counts) == 6
    few = BlockGatedResNet12(ResNet12(3, (4, 4, 4, 4)))
    few.blocks[2].norms.requires_grad_(False)
    assert few.candidates == (1, 3)
    with pytest.raises(ValueError, match="block 2 cannot be pruned"):
        few.prune(2)


def test_what_is_frozen_comes_through_all_stages_as_it_was():
    network = freeze(lively(resnet()).float(), "stem", "blocks.0", "head")
    network.blocks[6].bn1.weight.requires_grad_(False)
    before = state(network)
    recipes = (Recipe(1, 0.1, batch=4),) * 3
    done = abp_prune(network, labelled(8), n_prune=2, recipes=recipes, **QUIET)
    assert frozen(done.network) == frozen(network)
    after = state(done.network)
    fixed = [n for n in after if n.startswith(("stem.", "blocks.0.", "head."))]
    assert all(torch.equal(after[n], before[n]) for n in [*fixed, "blocks.6.bn1.weight"])
    assert any(not torch.equal(after[n], before[n]) for n in after)
    assert not changed(before, network)


def test_filters_that_would_take_frozen_numbers_with_them_stay():
    network = lively(resnet())
    network.blocks[0].bn1.requires_grad_(False)  # its own norm
    network.blocks[1].conv2.requires_grad_(False)  # what reads conv1, and itself
    network.stem[0].requires_grad_(False)
    before = state(network)
    zero_filters(network, 0.5, norms=True)
    stays = {"stem.0.weight", "blocks.0.conv1.weight"}
    stays |= {"blocks.1.conv1.weight", "blocks.1.conv2.weight"}
    moved = {
        n for n in changed(before, network) if n.endswith(("0.weight", "1.weight", "2.weight"))
    }
    assert not stays & moved and "blocks.0.conv2.weight" in moved
    narrow = block_voting.remove_zero_filters(network)
    x = images(3)
    torch.testing.assert_close(narrow.eval()(x), network.eval()(x), rtol=1e-9, atol=1e-9)
    assert narrow.blocks[1].conv1.weight.shape == network.blocks[1].conv1.weight.shape
    assert narrow.blocks[2].conv1.weight.shape[0] == 8
    kept = {n for n in frozen(network) if n in dict(narrow.named_parameters())}
    assert frozen(narrow) == kept == frozen(network)


def test_a_frozen_filter_that_is_zero_stays_where_it_is():
    network = lively(resnet())
    block = network.blocks[1]
    for tensor in (block.conv1.weight, block.bn1.weight, block.bn1.bias):
        tensor.data[0] = 0
    assert block_voting.remove_zero_filters(network).blocks[1].conv1.weight.shape[0] == 15
    block.conv1.requires_grad_(False)
    assert block_voting.remove_zero_filters(network).blocks[1].conv1.weight.shape[0] == 16


def test_soft_filter_pruning_leaves_frozen_layers_alone():
    network = freeze(lively(resnet()).float(), "stem", "blocks.3")
    before = state(network)
    narrow = soft_filter_prune(network, labelled(8), 0.5, Recipe(1, batch=4), **QUIET)
    after = state(narrow)
    fixed = [n for n in before if n.startswith(("stem.", "blocks.3."))]
    assert all(torch.equal(after[n], before[n]) for n in fixed)
    assert frozen(narrow) == frozen(network)


# Every layer keeps its mode


CALLS = {
    "votes": lambda network: collect_votes(network, images(4).float()),
    "accuracy": lambda network: block_voting.image_accuracy(network, labelled(4)),
    "answers": lambda network: answers(network, labelled(4)[0]),
    "macs": lambda network: cost.macs(network, (3, 8, 8)),
    "latency": lambda network: cost.latency(network, (3, 8, 8), warmup=0, repeats=1),
    "surgery": lambda network: stages.check_surgery(
        network, remove_blocks(network, network.pruned), labelled(4)
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_looking_at_a_network_gives_every_layer_its_mode_back(name):
    network = gated().train()
    network.network.blocks[3].bn1.eval()  # frozen norms in a network that trains
    network.gates["2"].eval()
    network.network.stem.eval()
    modes = {n: m.training for n, m in network.named_modules()}
    before = state(network)
    CALLS[name](network)
    assert {n: m.training for n, m in network.named_modules()} == modes
    assert not changed(before, network)


def test_an_error_gives_the_modes_back_too():
    network = gated().train()
    network.network.stem.eval()
    modes = [m.training for m in network.modules()]
    with pytest.raises(ValueError, match="x must be images"):
        cost.macs(network, (3, 8))
    assert [m.training for m in network.modules()] == modes


# The specification's augmentation


def shifted(image, down, right, mirrored, padding=4):
    """The same by numpy: pad with zeros, cut a window out, mirror."""
    side = image.shape[1]
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    window = padded[:, down : down + side, right : right + side]
    return window[:, :, ::-1] if mirrored else window


@pytest.mark.parametrize("flip", [True, False])
def test_crop_and_flip_is_padding_a_window_and_a_mirror(flip):
    x = images(40, 8)
    found = crop_and_flip(x, torch.Generator().manual_seed(3), flip=flip).numpy()
    seen = set()
    for image, result in zip(x.numpy(), found, strict=True):
        matches = [
            (down, right, mirrored)
            for down in range(9)
            for right in range(9)
            for mirrored in (False, True)
            if np.array_equal(shifted(image, down, right, mirrored), result)
        ]
        assert len(matches) == 1
        seen |= set(matches)
    assert {m[2] for m in seen} == ({False, True} if flip else {False})
    assert len({m[:2] for m in seen}) > 20


def test_it_is_decided_by_the_generator_alone():
    x = images(8, 8)
    first, again, other = (
        crop_and_flip(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    _ = torch.rand(3)
    assert torch.equal(first, crop_and_flip(x, torch.Generator().manual_seed(1)))


def test_the_default_recipes_are_those_of_the_specification(monkeypatch):
    """Padded by 4, cropped, mirrored, in every stage; off by an argument."""
    seen = []

    def watched(network, data, recipe, *args, **settings):
        seen.append(recipe)
        return {"loss": [], "accuracy": []}

    for module in (stages, block_voting.rounds):
        monkeypatch.setattr(module, "train_epochs", watched)
    no_mirror = partial(crop_and_flip, flip=False)
    for settings, augment in (
        ({}, crop_and_flip),
        ({"augment": None}, None),
        ({"augment": no_mirror}, no_mirror),
        ({"recipes": (Recipe(1), Recipe(2), Recipe(3))}, None),
    ):
        seen.clear()
        abp_prune(resnet(), labelled(4), n_prune=1, **settings, **QUIET)
        assert [recipe.augment for recipe in seen] == [augment] * 3
        if "recipes" not in settings:
            assert tuple(seen) == standard_recipes(augment)
            expected = [(160, 0.1), (5, 0.01), (100, 0.01)]
            assert [(r.epochs, r.lr) for r in seen] == expected
            assert {(r.momentum, r.weight_decay, r.batch) for r in seen} == {(0.9, 1e-4, 128)}


def test_an_augmentation_beside_recipes_of_ones_own_is_refused():
    with pytest.raises(ValueError, match="augment is that of the default recipes"):
        abp_prune(resnet(), labelled(4), n_prune=1, recipes=(FAST,) * 3, augment=None, **QUIET)
    with pytest.raises(ValueError, match="recipes must be three, got 2"):
        abp_prune(resnet(), labelled(4), n_prune=1, recipes=(FAST,) * 2, **QUIET)


def test_those_who_vote_are_not_augmented(monkeypatch):
    data, asked = labelled(4), []
    monkeypatch.setattr(
        block_voting.rounds, "collect_votes",
        lambda gated, x, *rest, **settings: asked.append(x) or collect_votes(gated, x, **settings),
    )  # fmt: skip
    vote_and_prune(gated(), data, Recipe(1, augment=crop_and_flip), n_prune=1, **QUIET)
    assert len(asked) == 1 and torch.equal(asked[0], data[0])


# Whole numbers of any library


def test_counts_may_be_numpys():
    marks = torch.rand(6, 3)
    assert torch.equal(
        count_votes(marks, "bottom_q", q=np.int64(2)), count_votes(marks, "bottom_q", q=2)
    )
    network, x = gated(), images(6).float()
    plain = collect_votes(network, x, per_ballot=2)
    assert collect_votes(network, x, per_ballot=np.uint8(2)) == plain
    recipe = Recipe(np.int64(1), batch=np.int32(4))
    assert recipe == Recipe(1, batch=4) and type(recipe.epochs) is int
    short = {"per_round": np.int64(2), "n_prune": np.int64(2)}
    rounds = vote_and_prune(gated(), labelled(4), recipe, **short, **QUIET)
    assert [len(r.removed) for r in rounds] == [2]
    assert cost.latency(nn.Linear(2, 2), (2,), np.int64(2), warmup=np.int64(0), repeats=np.int8(1))


BAD_COUNTS = {
    "epochs": lambda bad: Recipe(bad),
    "batch": lambda bad: Recipe(1, batch=bad),
    "q": lambda bad: count_votes(torch.rand(4, 3), "bottom_q", q=bad),
    "per_ballot": lambda bad: collect_votes(gated(), images(4).float(), per_ballot=bad),
    "per_round": lambda bad: vote_and_prune(gated(), labelled(4), FAST, n_prune=1, per_round=bad),
    "n_prune": lambda bad: vote_and_prune(gated(), labelled(4), FAST, n_prune=bad),
    "n_tasks": lambda bad: vote_by_tasks(few_shot(), few_tasks(), n_prune=1, n_tasks=bad),
    "warmup": lambda bad: cost.latency(nn.Linear(2, 2), (2,), warmup=bad),
    "repeats": lambda bad: cost.latency(nn.Linear(2, 2), (2,), repeats=bad),
}


def few_shot():
    return MAML(BlockGatedResNet12(ResNet12(3, (4, 4, 4, 4))), 0.1, 1)


def few_tasks():
    return tasks.from_arrays(torch.rand(24, 3, 16, 16), torch.arange(24) % 4).sampler(3, 1, 1)


@pytest.mark.parametrize("bad", [True, 1.0, -1, "2", None])
@pytest.mark.parametrize("name", BAD_COUNTS)
def test_what_is_no_count_is_refused_by_name(name, bad):
    if name == "n_prune" and bad is None:
        pytest.skip("None is 'not given'")
    with pytest.raises(ValueError, match=rf"{name} must be an integer .*got {bad!r}") as caught:
        BAD_COUNTS[name](bad)
    assert "\n" not in str(caught.value)


def test_the_blocks_of_few_shot_networks_may_be_counted_by_numpy():
    learner = few_shot()
    votes = vote_by_tasks(learner, few_tasks(), n_prune=np.int64(1), n_tasks=np.int64(2))
    assert len(votes) == 1 and len(learner.model.candidates) == 2
    assert isinstance(learner.model.ungated(), models.ResNet12)


# Labels are one whole number for each image


def one_hot(y):
    return nn.functional.one_hot(y, 4)


LABELS = {
    "a column": (lambda y: y[:, None], r"labels must be \[M\], one number per image, got \[8, 1\]"),
    "one-hot": (one_hot, r"labels must be \[M\], one number per image, got \[8, 4\]"),
    "soft": (lambda y: one_hot(y).double(), r"labels must be \[M\], one number per image"),
    "fractions": (lambda y: y + 0.25, r"labels must be whole numbers, got 0\.25"),
    "an array of fractions": (lambda y: y.numpy() + 0.5, r"labels must be whole numbers, got 0\.5"),
    "NaN": (lambda y: y * torch.nan, "labels must be whole numbers, got nan"),
    "words": (lambda y: [f"class {i}" for i in y.tolist()], "labels must be whole numbers"),
    "out of range": (lambda y: y + 1, r"labels must be in 0\.\.3 .*got 1\.\.4"),
}
READS_LABELS = {
    "accuracy": lambda data: block_voting.image_accuracy(resnet().float(), data),
    "train_epochs": lambda data: train_epochs(resnet().float(), data, FAST, **QUIET),
    "abp_prune": lambda data: abp_prune(
        resnet().float(), data, n_prune=1, recipes=(FAST,) * 3, **QUIET
    ),
    "held_out": lambda data: abp_prune(
        *(resnet().float(), labelled(4)), n_prune=1, recipes=(FAST,) * 3, held_out=data, **QUIET
    ),
}


@pytest.mark.parametrize("call", READS_LABELS)
@pytest.mark.parametrize("name", LABELS)
def test_what_is_no_label_is_refused_in_one_sentence(name, call):
    """A column against a row is compared with all: a perfect network had the accuracy of chance."""
    make, said = LABELS[name]
    y = torch.arange(8) % 4
    with pytest.raises(ValueError, match=said) as caught:
        READS_LABELS[call]((images(8), make(y)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "kind",
    [list, tuple, torch.Tensor.double, torch.Tensor.byte, torch.Tensor.numpy, torch.Tensor.half],
)
def test_whole_numbers_of_any_kind_are_labels(kind):
    network, x = lively(resnet()).float(), images(8)
    y = answers(network, x)
    y[::4] = (y[::4] + 1) % 4  # two of eight are wrong
    assert block_voting.image_accuracy(network, (x, kind(y))) == 0.75


@pytest.mark.parametrize("kept", [1e-3, 1e-9, 1e-12, 1e-300])
def test_the_last_filter_of_a_layer_stays(kept):
    network = lively(resnet()).float()
    zero_filters(network, kept, norms=True)
    narrow = block_voting.filters.remove_zero_filters(network)
    assert {m.out_channels for m in narrow.modules() if isinstance(m, nn.Conv2d)} == {1}
    x = images(3).float()
    with torch.no_grad():
        torch.testing.assert_close(narrow.eval()(x), network.eval()(x))
