"""A pruning run goes on only as the run that it was, by content; what differs is named."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from bilevel_cases import conv4, easy_source
from gate_cases import gated, labelled, resnet
from pruning_cases import prune
from torch import nn

from metalearn_tut import MAML, tasks
from metalearn_tut.block_voting import (
    Recipe,
    abp_prune,
    crop_and_flip,
    soft_filter_prune,
    target_rate,
    train_epochs,
    train_gates,
    vote_and_prune,
)

# ANP


def source(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tasks.from_arrays(torch.rand(48, 1, 16, 16, generator=generator), torch.arange(48) % 6)


def learner(make=conv4, inner_lr=0.1, inner_steps=1, **settings):
    return MAML(make().float(), inner_lr, inner_steps, **settings)


def tanh_net():
    body = [nn.Flatten(), nn.Linear(256, 8), nn.Tanh(), nn.Linear(8, 3)]
    return nn.Sequential(*body)


def relu_net():
    body = [nn.Flatten(), nn.Linear(256, 8), nn.ReLU(), nn.Linear(8, 3)]
    return nn.Sequential(*body)


def frozen_norm():
    model = conv4()
    model.blocks[0].norm.requires_grad_(False)
    return model


def smoothed(outputs, targets, amount=0.1):
    return F.cross_entropy(outputs, targets, label_smoothing=amount)


def anp(out, made, sampler, resume=False, **settings):
    return prune(made, sampler, (0.2, 0.2), n_tasks=1, out=out, resume=resume, **settings)


LEARNERS = {
    "another rate": (partial(learner, inner_lr=7.0), r"learner\.inner_lr was 0\.1, now 7\.0"),
    "more steps": (partial(learner, inner_steps=3), r"learner\.inner_steps was 1, now 3"),
    "first order": (
        partial(learner, first_order=True),
        r"learner\.first_order was False, now True",
    ),
    "a pull": (partial(learner, prox_weight=0.5), r"learner\.prox_weight was 0\.0, now 0\.5"),
    "another loss": (
        partial(learner, loss=smoothed),
        r"learner\.loss was '.*cross_entropy', now",
    ),
    "less smoothing": (
        partial(learner, loss=partial(smoothed, amount=0.3)),
        r"learner\.loss.* was .*, now ",
    ),
    "groups": (partial(learner, groups=[["head.weight"]]), r"learner\.groups was None"),
    "something frozen": (partial(learner, frozen_norm), r"learner\.frozen was \[\], now \['blocks"),
    "learned rates": (
        partial(learner, rate_mode="per_layer"),
        r"learner\.rate_mode was 'fixed', now 'per_layer'",
    ),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_another_learner_is_refused_and_what_differs_is_named(tmp_path, name):
    make, said = LEARNERS[name]
    sampler = source().sampler(3, 1, 2)
    anp(tmp_path, learner(), sampler)
    with pytest.raises(ValueError, match=f"cannot resume .*: {said}") as caught:
        anp(tmp_path, make(), sampler, resume=True)
    assert "\n" not in str(caught.value)
    assert len(anp(tmp_path, learner(), sampler, resume=True).history) == 2


def test_an_activation_is_part_of_the_architecture(tmp_path):
    sampler = source().sampler(3, 1, 2)
    anp(tmp_path, learner(tanh_net), sampler)
    with pytest.raises(ValueError, match=r"learner\.model\.2\.class was 'Tanh', now 'ReLU'"):
        anp(tmp_path, learner(relu_net), sampler, resume=True)


SAMPLERS = {
    "other numbers, as many": (source(1), (3, 1, 2), "sampler.source.* was"),
    "more shots": (source(), (3, 2, 2), r"sampler\.shots was 1, now 2"),
    "another seed": (source(), (3, 1, 2, 5), r"sampler\.seed was 0, now 5"),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_other_tasks_are_refused(tmp_path, name):
    data, drawn, said = SAMPLERS[name]
    anp(tmp_path, learner(), source().sampler(3, 1, 2))
    with pytest.raises(ValueError, match=f"cannot resume .*: {said}"):
        anp(tmp_path, learner(), data.sampler(*drawn), resume=True)


def test_equal_tasks_under_another_name_go_on(tmp_path):
    anp(tmp_path, learner(), source().sampler(3, 1, 2))
    again = tasks.from_arrays(source().images.copy(), torch.arange(48) % 6)
    assert len(anp(tmp_path, learner(), again.sampler(3, 1, 2), resume=True).history) == 2


def test_the_switch_of_compensation_is_compared(tmp_path):
    sampler = source().sampler(3, 1, 2)
    anp(tmp_path, learner(), sampler)
    with pytest.raises(ValueError, match="compensate was True, now False"):
        anp(tmp_path, learner(), sampler, resume=True, compensate=False)


# ABP and training on images


SHORT = Recipe(1, 0.01, batch=4)


def abp(out, data=None, network=None, recipe=SHORT, resume=False, **settings):
    settings = {"n_prune": 1, "progress": False, "recipes": (recipe,) * 3, **settings}
    network = network or resnet()
    return abp_prune(network, data or labelled(8), out=out, resume=resume, **settings)


def other_images():
    x, y = labelled(8)
    x = x.clone()
    x[0, 0, 0, 0] += 1
    return x, y


def frozen_stem():
    network = resnet()
    network.stem.requires_grad_(False)
    return network


def no_mirror(x, generator):
    return crop_and_flip(x, generator, flip=False)


ABP = {
    "one pixel": ({"data": other_images()}, r"data\.images was"),
    "other labels": ({"data": (labelled(8)[0], labelled(8)[1].flip(0))}, r"data\.labels was"),
    "floats for bytes": ({"data": (labelled(8)[0].float(), labelled(8)[1])}, r"data\.images was"),
    "an augmentation": (
        {"recipe": Recipe(1, 0.01, batch=4, augment=crop_and_flip)},
        r"recipe\.augment was None, now '.*crop_and_flip'",
    ),
    "another batch": ({"recipe": Recipe(1, 0.01, batch=2)}, r"recipe\.batch was 4, now 2"),
    "something frozen": ({"network": frozen_stem()}, r"frozen was \[\], now \['network\.stem\.0"),
    "another mixing": ({"network": gated(mixing="aig")}, r"mixing was 'skipnet', now 'aig'"),
    "another gate": ({"network": gated(gate="alone")}, r"network\.gates\.1.* was .*, now"),
    "float64": (
        {"network": resnet().double()},
        r"dtype was 'torch\.float32', now 'torch\.float64'",
    ),
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("abp")
    abp(out)
    return out


@pytest.mark.parametrize("name", ABP)
def test_another_run_of_abp_is_refused_and_what_differs_is_named(done, name):
    changed, said = ABP[name]
    before = {path: path.read_bytes() for path in done.iterdir()}
    with pytest.raises(ValueError, match=f"cannot resume .*: .*{said}") as caught:
        abp(done, resume=True, **changed)
    assert "\n" not in str(caught.value)
    assert before == {path: path.read_bytes() for path in done.iterdir()}


def test_the_same_run_goes_on_from_arrays_as_from_tensors(done):
    x, y = labelled(8)
    assert abp(done, (x.numpy(), y.numpy()), resume=True).final.history["loss"]


AUGMENTATIONS = {
    "padding": (partial(crop_and_flip, padding=2), partial(crop_and_flip, padding=3)),
    "flip": (crop_and_flip, no_mirror),
    "lambdas": (lambda x, g: x, lambda x, g: x.flip(3)),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_are_told_apart_by_what_they_do(tmp_path, name):
    """Partial functions and lambdas all have one name."""
    first, second = (Recipe(1, augment=a) for a in AUGMENTATIONS[name])
    file = tmp_path / "run.safetensors"
    train_epochs(resnet(), labelled(4), first, file=file, progress=False)
    with pytest.raises(ValueError, match=r"cannot resume .*: recipe\.augment.* was .*, now"):
        train_epochs(resnet(), labelled(4), second, file=file, progress=False)
    train_epochs(resnet(), labelled(4), first, file=file, progress=False)


def test_objectives_are_told_apart_by_their_numbers(tmp_path):
    """The closures of target_rate are all called objective."""
    run = {"out": tmp_path, "progress": False}
    train_gates(gated(), labelled(4), Recipe(1), objective=target_rate(0.6), **run)
    with pytest.raises(ValueError, match=r"objective\.target was 0\.6, now 0\.9"):
        train_gates(gated(), labelled(4), Recipe(1), objective=target_rate(0.9), **run)
    with pytest.raises(ValueError, match=r"objective.* was"):
        train_gates(gated(), labelled(4), Recipe(1), **run)


def test_votes_and_distillation_are_compared(tmp_path):
    run = {"n_prune": 1, "out": tmp_path, "progress": False}
    vote_and_prune(gated(), labelled(4), Recipe(1), **run)
    with pytest.raises(ValueError, match=r"options\.kd_weight was 0\.9, now 0\.5"):
        vote_and_prune(gated(), labelled(4), Recipe(1), kd_weight=0.5, **run)


def test_what_filters_are_kept_is_compared(tmp_path):
    file, quiet = tmp_path / "filters.safetensors", {"progress": False}
    soft_filter_prune(resnet(), labelled(4), 0.5, Recipe(1), file=file, **quiet)
    with pytest.raises(ValueError, match=r"'kept': 0\.5.* now .*'kept': 0\.25"):
        soft_filter_prune(resnet(), labelled(4), 0.25, Recipe(1), file=file, **quiet)


def test_a_data_set_of_the_same_size_is_another(tmp_path):
    sampler = easy_source().sampler(3, 1, 2)
    anp(tmp_path, learner(), sampler)
    x = easy_source().images[::-1].copy()  # the same images, of other classes
    other = tasks.from_arrays(x, torch.arange(96) % 8).sampler(3, 1, 2)
    assert repr(other) == repr(sampler)
    with pytest.raises(ValueError, match=r"cannot resume .*: sampler\.source"):
        anp(tmp_path, learner(), other, resume=True)
