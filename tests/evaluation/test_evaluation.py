"""Evaluation: intervals, paired tasks, protocols, and memory that stays flat."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_runs import learner, sampler

from metalearn_tut import MAML, ProtoNet, models, tasks
from metalearn_tut.evaluation import Evaluation, evaluate, interval, paired_difference
from metalearn_tut.evaluation import accuracy as evaluation


def result(values, name="tasks", **more):
    return Evaluation(torch.tensor(values), name, evaluation.PROTOCOLS["batch"], **more)


def images(norm="batch"):
    """A ProtoNet on 16 x 16 images, and a sampler of tasks for it."""
    torch.manual_seed(0)
    x, y = torch.rand(60, 1, 16, 16), torch.arange(60) % 6
    return ProtoNet(models.Conv4(1, 3, width=4, norm=norm, image_size=16)), tasks.from_arrays(
        x, y
    ).sampler(3, 2, 4)


def test_the_interval_is_numpys():
    values = np.random.default_rng(0).random(600)
    mean, half = interval(torch.from_numpy(values))
    assert mean == pytest.approx(values.mean(), rel=1e-14)
    assert half == pytest.approx(1.96 * values.std(ddof=1) / math.sqrt(600), rel=1e-12)
    assert interval(torch.tensor([0.25])) == (0.25, math.inf)


def test_the_interval_covers_the_mean_in_95_of_100_experiments():
    draws = np.random.default_rng(1).random((4000, 50))
    covered = [
        abs(mean - 0.5) <= half for mean, half in (interval(torch.from_numpy(d)) for d in draws)
    ]
    assert 0.93 < np.mean(covered) < 0.96


def test_accuracy_is_the_share_of_right_answers_task_by_task():
    trained, expected = learner(), []
    for i in range(9):
        task = sampler(3)[i]
        params = {n: p.detach().clone() for n, p in trained.model.named_parameters()}
        for _ in range(2):  # the inner loop written out; all rates are still 0.2
            leaves = {n: p.requires_grad_() for n, p in params.items()}
            logits = torch.func.functional_call(trained.model, leaves, (task.support_x,))
            loss = F.cross_entropy(logits, task.support_y)
            grads = torch.autograd.grad(loss, leaves.values())
            params = {
                n: (p - 0.2 * g).detach() for (n, p), g in zip(leaves.items(), grads, strict=True)
            }
        logits = torch.func.functional_call(trained.model, params, (task.query_x,))
        right = (logits.argmax(1) == task.query_y).sum().item()
        expected.append(right / len(task.query_y))
    found = evaluate(trained, sampler(3), 9)
    assert found.values.tolist() == pytest.approx(expected, rel=1e-6)
    assert found.steps == 2


def test_steps_are_those_asked_for():
    trained = learner()
    values = {steps: evaluate(trained, sampler(3), 5, steps=steps) for steps in (0, 2, 6)}
    torch.testing.assert_close(values[2].values, evaluate(trained, sampler(3), 5).values)
    assert [v.steps for v in values.values()] == [0, 2, 6]
    for task in (sampler(3)[i] for i in range(5)):
        unadapted = trained.model(task.query_x).argmax(1)
        assert (
            values[0].values[int(task.tags["index"])] == (unadapted == task.query_y).float().mean()
        )
    assert not torch.equal(values[0].values, values[6].values)


def test_a_metric_is_applied_to_outputs_and_targets():
    waves = tasks.sinusoid(seed=2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    trained = MAML(model, inner_lr=0.01, loss=F.mse_loss)
    found = evaluate(trained, waves, 4, metric=F.mse_loss, steps=0)
    expected = [F.mse_loss(model(waves[i].query_x), waves[i].query_y).item() for i in range(4)]
    assert found.values.tolist() == pytest.approx(expected, rel=1e-5)
    assert found.metric == "mse_loss" and str(found).startswith("mse_loss ")
    with pytest.raises(ValueError, match=r"accuracy is of .* pass metric=.*such as F\.mse_loss"):
        evaluate(trained, waves, 4)


def test_tasks_whose_outputs_are_not_finite_are_counted():
    drawn = [sampler()[i] for i in range(5)]

    class Diverges:  # on the second task and the last
        def adapt(self, support_x, support_y):
            bad = any(torch.equal(support_x, drawn[i].support_x) for i in (1, 4))
            return lambda x: torch.full((len(x), 3), torch.nan if bad else 0.0)

    found = evaluate(Diverges(), drawn, 5)
    assert found.not_finite == found.to_dict()["not_finite"] == 2
    assert found.values[[1, 4]].tolist() == [0.0, 0.0] and found.values[[0, 2, 3]].min() > 0
    assert str(found).endswith("; outputs of 2 tasks are not finite)")


def test_a_paired_difference_is_that_of_the_differences():
    a, b = np.random.default_rng(0).random((2, 40))
    mean, half = paired_difference(result(a), result(b))
    assert mean == pytest.approx((a - b).mean())
    assert half == pytest.approx(1.96 * (a - b).std(ddof=1) / math.sqrt(40))
    assert paired_difference(result(a), result(a)) == (0.0, 0.0)


def test_only_results_of_one_metric_on_the_same_tasks_are_paired():
    a = result([0.1, 0.2])
    with pytest.raises(ValueError, match=r"the same tasks .* got 2 of tasks and 2 of others"):
        paired_difference(a, result([0.1, 0.2], "others"))
    with pytest.raises(ValueError, match=r"the same tasks .* got 2 of tasks and 1 of tasks"):
        paired_difference(a, result([0.1]))
    with pytest.raises(ValueError, match="one metric on both sides, got accuracy and mse_loss"):
        paired_difference(a, result([0.1, 0.2], metric="mse_loss"))


def test_tasks_of_turned_classes_or_of_one_group_are_other_tasks():
    x, y = torch.rand(60, 1, 16, 16), torch.arange(60) % 6
    source = tasks.from_arrays(x, y, groups=["a", "a", "a", "b", "b", "b"])
    sources = [source, source.rotated(), dataclasses.replace(source, within_group=True)]
    assert len({repr(s.sampler(3, 1, 1)) for s in sources}) == 3


@pytest.mark.parametrize("norm", ["batch", "support", "group", "none"])
def test_a_result_names_how_query_images_were_normalized(norm):
    trained, pictures = images(norm)
    assert evaluate(trained, pictures, 2).protocol == evaluation.PROTOCOLS[norm]


def test_the_protocol_says_whether_a_query_image_is_classified_alone():
    for norm, alone in (("batch", False), ("support", True), ("group", True)):
        trained, pictures = images(norm)
        task = pictures[0]
        predict = trained.adapt(task.support_x, task.support_y)
        together = predict(task.query_x)
        one_by_one = torch.cat([predict(x[None]) for x in task.query_x])
        assert torch.allclose(together, one_by_one, atol=1e-4) == alone, norm
        assert ("transductive" in evaluate(trained, pictures, 2).protocol) != alone


def test_the_protocol_of_other_networks_is_found_by_trying_one_input_alone():
    class Functional(nn.Sequential):
        def forward(self, x):
            return super().forward(F.batch_norm(x, None, None, training=True))

    def protocol(*layers, kind=nn.Sequential):
        model = kind(*layers, nn.Linear(6, 3))
        return evaluate(MAML(model, inner_lr=0.1), sampler(), 2).protocol

    norm, filled = nn.BatchNorm1d(6), nn.BatchNorm1d(6)
    filled(torch.randn(20, 6))
    named = nn.Linear(6, 3)
    named.norm = nn.LayerNorm(3)  # a submodule of this name says nothing
    assert protocol() == evaluation.PROTOCOLS["none"]
    assert protocol(kind=Functional) == evaluation.PROTOCOLS["batch"]
    assert protocol(nn.BatchNorm1d(6, track_running_stats=False)) == evaluation.PROTOCOLS["support"]
    assert protocol(norm) == protocol(norm.eval()) == evaluation.PROTOCOLS["support"]
    assert protocol(filled.eval()) == "running statistics of training"
    assert (
        evaluate(MAML(named, inner_lr=0.1), sampler(), 2).protocol == evaluation.PROTOCOLS["none"]
    )


def test_a_result_prints_its_interval_tasks_steps_and_protocol():
    text = str(result([0.0, 1.0, 0.0, 1.0], steps=3))
    assert (
        text
        == "0.5000 ± 0.5658 (4 tasks, 3 inner steps; transductive: normalized by the query batch)"
    )


def test_a_result_is_ready_for_json():
    found = result([0.25, 0.5], steps=None)
    summary = json.loads(json.dumps(found.to_dict()))
    assert summary == {
        "metric": "accuracy",
        "mean": 0.375,
        "half_width": found.half_width,
        "n_tasks": 2,
        "steps": None,
        "protocol": evaluation.PROTOCOLS["batch"],
        "sampler": "tasks",
    }
    assert found.to_dict(values=True)["values"] == [0.25, 0.5]


@pytest.mark.parametrize("n_tasks", [0, -1, 4])
def test_there_must_be_as_many_tasks_as_asked_for(n_tasks):
    three = [sampler()[i] for i in range(3)]
    said = r"n_tasks must be (an integer >= 1|in 1\.\.3, the tasks there are), got"
    with pytest.raises(ValueError, match=f"{said} {n_tasks}"):
        evaluate(learner(), three, n_tasks)
    assert len(evaluate(learner(), three, 3).values) == 3


def test_steps_are_refused_where_none_are_taken():
    trained, pictures = images()
    with pytest.raises(ValueError, match="steps=3, but ProtoNet takes no inner steps"):
        evaluate(trained, pictures, 2, steps=3)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc, which Linux has")
def test_memory_stays_flat_over_many_tasks():
    """Each task's graph holds 3 MB; 60 of them must not be kept."""

    class Wide:
        def adapt(self, support_x, support_y):
            weight = torch.randn(6, 99_999, requires_grad=True)
            return lambda x: (x[:1] @ weight).tanh().view(3, -1).mean(1).expand(len(x), 3)

    def metric(outputs, targets):  # its value has a graph
        return F.cross_entropy(outputs, targets)

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    evaluate(Wide(), sampler(), 5, metric=metric)
    before = resident()
    evaluate(Wide(), sampler(), 60, metric=metric)
    assert resident() - before < 60e6
