"""``metalearn-tut federate``, and what the other commands do with its runs."""

import json
import signal
from importlib.util import find_spec

import background
import numpy as np
import pytest
import torch
from test_cli import command

from metalearn_tut import gating, tasks
from metalearn_tut.cli import program as cli
from metalearn_tut.evaluation import cost, evaluate, interval
from metalearn_tut.federated import by_classes, run_rounds
from metalearn_tut.federated.flower.app import make_federation
from metalearn_tut.files.tensor_file import read_tensors
from metalearn_tut.gating import UPDATES
from metalearn_tut.runs import building as runs
from metalearn_tut.runs.algorithms import FEDERATED
from metalearn_tut.runs.options import options_of
from metalearn_tut.training import checkpoint

TINY = [
    *("federate", "--nodes", "4", "--classes-per-node", "3", "--width", "8", "--queries", "4"),
    *("--rounds", "3", "--fraction", "0.5", "--local-steps", "2", "--inner-lr", "0.2"),
]
GATES = ["--gate-lr", "0.3", "--sparsity", "2", "--target", "0.4", "--warmup", "0.2"]
# Gates that have learned nothing yet are all open: a large step makes them choose.
LIVELY = [*GATES, "--gate-outer-lr", "8"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "gater"
    assert cli.run([*TINY, *LIVELY, "--seed", "2", "--out", str(folder)]) == 0
    return folder


def tensors_of(folder):
    names = ("last.safetensors", "server.safetensors")
    return {(n, t): v for n in names for t, v in read_tensors(folder / n)[0].items()}


def test_the_choices_are_those_of_the_package():
    assert options_of(FEDERATED["metagater"])["update"].choices == UPDATES


def test_a_run_is_what_the_package_makes_of_the_options(trained):
    config = runs.load_config(trained)
    assert config == {
        "data": {"name": "glyphs"},
        "tasks": {"ways": 3, "shots": 1, "queries": 4, "seed": 2},
        "model": {
            "name": "ChannelGatedConv4",
            "in_channels": 1,
            "ways": 3,
            "width": 8,
            "norm": "support",
            "image_size": 28,
        },
        "algorithm": {
            "name": "metagater",
            "inner_lr": 0.2,
            "update": "full",
            "gate_lr": 0.3,
            "sparsity": 2.0,
            "target": 0.4,
            "warmup": 0.2,
        },
        "federation": {
            "nodes": 4,
            "rounds": 3,
            "fraction": 0.5,
            "local_steps": 2,
            "tasks_per_step": 1,
            "outer_lr": 0.2,
            "gate_outer_lr": 8.0,
        },
    }
    before = torch.get_rng_state()
    federation = make_federation(  # as Flower's processes make it
        "metalearn_tut.runs.building:build_federation", json.dumps({"config": config})
    )
    assert torch.equal(torch.get_rng_state(), before)
    parts = by_classes(
        tasks.glyphs("train"), 4, 3, unseen=0, seed=2, local_labels=True
    )  # the nodes written out
    for node, expected in zip(federation.nodes, parts.train, strict=True):
        assert node.classes == expected.classes and node.labels == (0, 1, 2)
        assert all(map(np.array_equal, node.positions, expected.positions))
    assert (federation.support, federation.query, federation.seed) == (3, 12, 2)
    records = run_rounds(federation)
    assert json.loads((trained / "history.json").read_text()) == records
    found = runs.load_learner(trained)
    for name, p in federation.learner.meta_parameters().items():
        assert torch.equal(found.meta_parameters()[name], p), name
    inner = found.inner
    assert (inner.inner_lr, inner.gate_lr, inner.target) == (0.2, 0.3, 0.4)
    assert (found.sparsity, found.warmup) == (2.0, 0.2)


def test_evaluate_lets_nodes_join_and_counts_what_their_images_need(capsys, trained, tmp_path):
    written = tmp_path / "result.json"
    arguments = ["--tasks", 5, "--seed", 3, "--queries", 4, "--json", written]
    code, out, said = command(capsys, "evaluate", trained, *arguments)
    assert code == 0, said
    sampler = tasks.glyphs("test").sampler(3, 1, 4, seed=3)
    learner, shares = runs.load_learner(trained), []
    for i in range(5):  # the share written out
        task = sampler[i]
        network = learner.adapt(task.support_x, task.support_y).deploy()
        masks = network.masks(tasks.as_float(task.query_x))
        active = gating.active_macs(network, masks, (1, 28, 28)).double()
        shares.append((active / cost.macs(network, (1, 28, 28))).mean().item())
    mean, half = interval(torch.tensor(shares, dtype=torch.float64))
    expected = evaluate(learner, sampler, 5)
    assert out.splitlines() == [
        str(expected),
        expected.sampler,
        f"{mean:.4f} ± {half:.4f} of the multiply-adds are done for an image, as deployed",
    ]
    assert min(shares) < 0.99 and half > 0  # some gates close, not the same for all
    values = json.loads(written.read_text())["values"]
    found = values.pop("active_macs")
    assert values == expected.to_dict()
    assert found == pytest.approx({"mean": mean, "half_width": half}, rel=1e-9)


@pytest.mark.parametrize("algorithm", ["per_fedavg", "fedavg"])
def test_the_learners_without_gates_are_trained_and_evaluated(capsys, tmp_path, algorithm):
    options = ["--algorithm", algorithm, "--norm", "batch", "--save-every", 2]
    options += ["--update", "first_order"] if algorithm == "per_fedavg" else []
    code, out, said = command(capsys, *TINY, *options, "--out", tmp_path)
    assert code == 0, said
    sent = 3 * 2 * 4 * cost.parameters(runs.load_learner(tmp_path).model) / 1e6
    assert out.splitlines()[-1] == (
        f"{tmp_path}/last.safetensors: 3 rounds, {sent:.1f} MB to the nodes and {sent:.1f} MB back"
    )
    learner = runs.load_learner(tmp_path)
    assert learner.inner_steps == (algorithm == "per_fedavg") and learner.inner_lr == 0.2
    assert learner.first_order is (algorithm == "per_fedavg")
    code, out, _ = command(capsys, "evaluate", tmp_path, "--tasks", 3, "--steps", 1)
    assert code == 0 and "1 inner steps; transductive" in out and "multiply-adds" not in out


DIES = """
import os, signal, sys
from pathlib import Path
from metalearn_tut import cli

replace, rounds = Path.replace, []

def until_the_third_round(path, target):
    replace(path, target)
    rounds.extend([target] if Path(target).name == "server.safetensors" else [])
    if len(rounds) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

Path.replace = until_the_third_round
cli.run(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_run_killed_and_resumed_ends_bitwise_as_if_it_had_not_been(capsys, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = [*TINY, *LIVELY, "--rounds", 9, "--local-steps", 1, "--width", 4]
    run = background.start("-c", DIES, *options, "--out", killed)
    run.communicate()
    assert run.returncode == -signal.SIGKILL
    done = len(read_tensors(killed / "server.safetensors")[1]["records"])
    assert done == 3 and not (killed / "history.json").exists()
    assert command(capsys, "evaluate", killed, "--tasks", 2)[0] == 0
    code, _, said = command(capsys, *options, "--out", killed)
    assert code == 2 and "holds a run: go on with it (resume=True, on the command" in said[0]
    code, _, said = command(capsys, *options, "--out", killed, "--resume", "--sparsity", 1)
    assert code == 2 and "config.algorithm.sparsity was 2.0, now 1.0" in said[0]
    assert command(capsys, *options, "--out", killed, "--resume")[0] == 0
    assert command(capsys, *options, "--out", whole)[0] == 0
    found, expected = tensors_of(killed), tensors_of(whole)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], t) for name, t in expected.items())
    assert (killed / "history.json").read_bytes() == (whole / "history.json").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra deploy is not installed",
)
def test_the_network_of_a_new_node_runs_elsewhere(capsys, trained, tmp_path):
    import onnxruntime

    file = tmp_path / "node.onnx"
    code, _, said = command(capsys, "export", trained, file, "--seed", 3, "--task", 4)
    assert code == 0, said
    task = tasks.glyphs("test").sampler(3, 1, 1, seed=3)[4]
    expected = runs.load_learner(trained).adapt(task.support_x, task.support_y)(task.query_x)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": tasks.as_float(task.query_x).numpy()})
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_an_exported_run_is_the_same_learner(capsys, trained, tmp_path):
    file = tmp_path / "gater.safetensors"
    assert command(capsys, "export", trained, file)[0] == 0
    assert runs.load_config(file) == runs.load_config(trained)
    for name, p in runs.load_learner(file).meta_parameters().items():
        assert torch.equal(p, runs.load_learner(trained).meta_parameters()[name]), name


def test_gates_have_a_price_and_a_rate_by_default(capsys, tmp_path):
    options = ["--rounds", 1, "--local-steps", 1, "--out", tmp_path]
    assert command(capsys, *TINY, *options)[0] == 0
    config = runs.load_config(tmp_path)
    assert config["algorithm"] == {
        **{"name": "metagater", "inner_lr": 0.2, "update": "full"},
        **{"gate_lr": None, "sparsity": 2.0, "target": 0.5, "warmup": 0.0},
    }
    assert config["federation"]["gate_outer_lr"] == 3.0


def test_a_federated_configuration_says_what_it_lacks():
    with pytest.raises(ValueError, match="the configuration of a federated run needs tasks"):
        runs.build_federation({"data": {"name": "glyphs"}, "federation": {}})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("federate", "Missing option '--out'"),
        ("federate --out {new} --fraction 0", "fraction must be in (0, 1], got 0.0"),
        ("federate --out {new} --nodes 0", "'--nodes': 0 is not in the range x>=1"),
        (
            "federate --out {new} --classes-per-node 5000",
            "classes_per_node=5000, but glyphs (train) has 1311 classes",
        ),
        (
            "federate --out {new} --within-group --classes-per-node 900",
            "classes_per_node=900: no group of glyphs (train) has that many classes",
        ),
        (
            "federate --out {new} --queries 30",
            "node 0 has 100 images, fewer than support + query = 5 + 150",
        ),
        (
            "federate --out {new} --nodes 28 --classes-per-node 1000",
            "has 20 images for 22 nodes: fewer nodes, or fewer classes_per_node",
        ),
        ("federate --out {new} --inner-lr -1", "inner_lr must be finite and >= 0, got -1.0"),
        ("federate --out {new} --outer-lr -1", "outer_lr must be finite and >= 0, got -1.0"),
        ("federate --out {new} --target 2", "target must be in 0..1, got 2.0"),
        ("federate --out {new} --algorithm maml", "'maml' is not one of 'metagater'"),
        ("federate --out {new} --algorithm fedavg --target 1", "--target: fedavg has no use"),
        (
            "federate --out {new} --algorithm per_fedavg --gate-outer-lr 1",
            "--gate-outer-lr: per_fedavg has no use",
        ),
        (
            "federate --out {new} --algorithm fedavg --update first_order",
            "--update first_order: fedavg has no use",
        ),
        ("federate --out {new} --data omniglot --root {new}", "there is no such folder"),
        ("federate --out {run}", "holds a run: go on with it"),
        ("federate --out {run} --resume", "config.algorithm.gate_lr was 0.3, now None"),
        ("train --out {run} --resume", "cannot resume {run}/last.safetensors: config"),
        ("evaluate {run} --ways 4", "tasks have 4 ways, and the learner a head trained for 3"),
        ("evaluate {run} --steps 2", "--steps 2: metagater takes no inner steps"),
        ("prune {run} --out {new}", "is a MetaGater, which is not pruned by masks"),
    ],
)
def test_a_mistake_is_answered_in_one_line(capsys, tmp_path, trained, arguments, said):
    places = {"new": tmp_path / "new", "run": trained}
    code = cli.run([word.format(**places) for word in arguments.split()])
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert captured.err.startswith("metalearn-tut: ") and captured.err.count("\n") == 1
    assert said.format(**places) in captured.err
    assert not (tmp_path / "new").exists()


def test_checkpoints_of_a_federated_run_are_not_taken_for_another_kind(trained):
    assert not (trained / "best.safetensors").exists()
    assert checkpoint.find(trained) == trained / "last.safetensors"
