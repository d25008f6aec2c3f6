"""Votes of few-shot tasks, after adaptation, on the blocks of a meta-trained network."""

import copy

import pytest
import torch
from gate_cases import images, same_state

from metalearn_tut import MAML, evaluate, meta_train, tasks
from metalearn_tut.block_voting import BlockGatedResNet12, count_votes, task_marks, vote_by_tasks
from metalearn_tut.models import ResNet12


def make(norm="support", **settings):
    torch.manual_seed(0)
    model = BlockGatedResNet12(ResNet12(3, widths=(8, 8, 16, 16), norm=norm))
    for gate in model.gates.values():  # fresh ones mark all images alike
        torch.nn.init.normal_(gate.head.weight, std=3.0)
    return MAML(model, inner_lr=0.1, inner_steps=2, **settings)


def sampler():
    labels = torch.arange(30) % 5
    x = images(30, 16).float() + 0.3 * labels[:, None, None, None]
    return tasks.from_arrays(x, labels).sampler(3, 1, 2)


@pytest.mark.parametrize("norm", ["support", "group"])
def test_marks_are_those_of_the_adapted_network_with_the_tasks_statistics(norm):
    learner, some = make(norm), sampler()
    marks = task_marks(learner, some, 3)
    assert marks.shape == (3, 6, 4)
    for task, found in zip((some[i] for i in range(3)), marks, strict=True):
        predict = learner.adapt(task.support_x, task.support_y)
        adapted = copy.deepcopy(learner.model)
        adapted.load_state_dict({**adapted.state_dict(), **predict.params})
        both = torch.cat([task.support_x, task.query_x])
        expected = adapted.marks(both, 3 if norm == "support" else None)[3:]
        torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)
    before = torch.stack([learner.model.marks(some[i].query_x) for i in range(3)])
    assert (marks - before).abs().max() > 1e-3


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("ballots", ["task", "image"])
def test_the_least_wanted_block_goes_round_by_round(ballots):
    learner, healed = make(), []
    first = task_marks(learner, sampler(), 3)[..., 1:].double()
    cast = first.mean(1) if ballots == "task" else first.flatten(0, 1)

    def heal(learner):
        healed.append(learner.model.candidates)
        meta_train(learner, sampler(), steps=1, tasks_per_step=1, progress=False)

    rounds = vote_by_tasks(learner, sampler(), n_prune=2, n_tasks=3, ballots=ballots, heal=heal)
    assert rounds[0].candidates == (1, 2, 3)
    assert rounds[0].counts == tuple(count_votes(cast).tolist())
    assert sum(rounds[0].counts) == rounds[0].ballots == (3 if ballots == "task" else 18)
    gone = [votes.ranking()[0] for votes in rounds]
    assert healed == [tuple(sorted({1, 2, 3} - set(gone[:n]))) for n in (1, 2)]
    plain = MAML(learner.model.ungated(), inner_lr=0.1)
    assert type(plain.model) is ResNet12
    assert 0 <= evaluate(plain, sampler(), n_tasks=2, progress=False).mean <= 1


def test_the_labels_of_query_images_are_not_looked_at():
    class Shuffled:
        def __getitem__(self, i):
            task = sampler()[i]
            return tasks.Task(task.support_x, task.support_y, task.query_x, 0 * task.query_y)

    assert torch.equal(task_marks(make(), Shuffled(), 2), task_marks(make(), sampler(), 2))


def test_nothing_is_pruned_if_nothing_is_to_be():
    learner = make()
    before = copy.deepcopy(learner.model)
    assert vote_by_tasks(learner, sampler(), n_prune=0) == []
    assert same_state(learner.model, before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"n_prune": 4},
            r"n_prune must be an integer in 0..3 \(blocks .*\), got 4",
        ),
        ({"n_prune": 1, "n_tasks": 0}, "the voting set is empty: n_tasks must be an integer >= 1"),
        ({"n_prune": 1, "ballots": "class"}, "ballots must be one of 'task', 'image', got 'class'"),
        ({"n_prune": 1, "rule": "veto"}, "rule must be one of"),
    ],
)
def test_arguments_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        vote_by_tasks(make(), sampler(), **{"n_tasks": 2, **settings})


def test_learners_that_cannot_be_pruned():
    plain = MAML(ResNet12(3, widths=(8, 8, 16, 16)), inner_lr=0.1)
    with pytest.raises(TypeError, match="tasks vote on a BlockGatedResNet12, got ResNet12"):
        vote_by_tasks(plain, sampler(), n_prune=1)
    with pytest.raises(
        ValueError, match="blocks can be pruned with rate_mode='fixed', got 'per_layer'"
    ):
        vote_by_tasks(make(rate_mode="per_layer"), sampler(), n_prune=1)
