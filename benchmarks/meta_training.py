"""Meta-training speed on two cores: this package against `higher` used in the ordinary way.

    python benchmarks/meta_training.py

Both sides train the same Conv4-32 on the same 5-way 1-shot tasks (15 queries per class, one
inner step, second order, 4 tasks per outer step) and are first checked to compute the same
meta-gradient. `higher` runs its own loop in one process with two threads on images in the
usual memory layout. The package runs as `metalearn-tut train --processes 2` does, one thread
each. The two alternate, `--rounds` times each; the ratio of the medians is the result, written to
`results/benchmarks/meta_training.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut import bilevel, models, tasks
from metalearn_tut.launch import worker_environment
from metalearn_tut.maml import MAML
from metalearn_tut.results import write_result
from metalearn_tut.tasks import EpisodeSampler, TaskBatch, as_float
from metalearn_tut.training import meta_train

RESULT = Path(__file__).parent.parent / "results" / "benchmarks" / "meta_training.json"
INNER_LR, TASKS, WARM, STEPS = 0.4, 4, 5, 60


def sampler() -> EpisodeSampler:
    return tasks.glyphs("train").sampler(ways=5, shots=1, queries=15, seed=0)


def network() -> models.Conv4:
    torch.manual_seed(0)
    net = models.Conv4(in_channels=1, ways=5, width=32)
    nn.init.normal_(net.head.weight, std=0.1)  # a zero head would have a zero body gradient
    return net


class OrdinaryConv4(nn.Module):
    """The same function as usually written: convolution, batch norm, ReLU, then pooling."""

    def __init__(self, net: models.Conv4) -> None:
        super().__init__()
        self.convs = nn.ModuleList(b.conv for b in net.blocks)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(b.conv.out_channels, track_running_stats=False) for b in net.blocks
        )
        self.head = net.head

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.max_pool2d(F.relu(norm(conv(x))), 2)
        return self.head(x.flatten(1))


def higher_gradient(net: nn.Module, inner: torch.optim.Optimizer, batch: TaskBatch) -> None:
    """Accumulate the meta-gradient of one batch in ``net``'s ``.grad``, as its README shows."""
    import higher

    for task in batch:
        with higher.innerloop_ctx(net, inner, copy_initial_weights=False) as (fnet, diffopt):
            diffopt.step(F.cross_entropy(fnet(as_float(task.support_x)), task.support_y))
            loss = F.cross_entropy(fnet(as_float(task.query_x)), task.query_y)
            (loss / len(batch)).backward()


def time_higher() -> float:
    torch.set_num_threads(2)
    net = OrdinaryConv4(network())
    inner = torch.optim.SGD(net.parameters(), lr=INNER_LR)
    outer = torch.optim.Adam(net.parameters(), lr=1e-3)
    source = sampler()

    def run(steps: int) -> None:
        for step in range(steps):
            outer.zero_grad()
            higher_gradient(net, inner, source.batch(step, TASKS))
            outer.step()

    return tasks_per_second(run)


def time_package() -> float:
    torch.set_num_threads(1)
    learner = MAML(network(), INNER_LR, 1)
    source = sampler()
    return tasks_per_second(
        lambda steps: meta_train(learner, source, steps=steps, tasks_per_step=TASKS, progress=False)
    )


def tasks_per_second(run: object) -> float:
    run(WARM)
    start = time.perf_counter()
    run(STEPS)
    return STEPS * TASKS / (time.perf_counter() - start)


def check_gradients() -> float:
    """Largest difference of the two meta-gradients, relative to the largest entry."""
    batch, net = sampler().batch(0, TASKS), network()
    ours = bilevel.meta_gradient(net, batch, inner_lr=INNER_LR, inner_steps=1)
    plain = OrdinaryConv4(net)
    higher_gradient(plain, torch.optim.SGD(plain.parameters(), lr=INNER_LR), batch)
    theirs = {}
    for i in range(4):
        theirs[f"blocks.{i}.conv.weight"] = plain.convs[i].weight.grad
        theirs[f"blocks.{i}.norm.weight"] = plain.norms[i].weight.grad
        theirs[f"blocks.{i}.norm.bias"] = plain.norms[i].bias.grad
    theirs |= {"head.weight": plain.head.weight.grad, "head.bias": plain.head.bias.grad}
    scale = max(g.abs().max() for g in ours.values())
    return max(((ours[n] - theirs[n]).abs().max() / scale).item() for n in ours)


def worker(kind: str) -> float:
    """Run one side in fresh processes and read its speed from the last line."""
    command = [sys.executable, __file__, "--worker", kind]
    if kind == "higher":
        environments = [{**os.environ, "OMP_NUM_THREADS": "2"}]
    else:  # as `metalearn-tut train --processes 2` starts its workers
        common = worker_environment(2)
        environments = [{**common, "RANK": r, "LOCAL_RANK": r} for r in ("0", "1")]
    workers = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        for env in environments
    ]
    said = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise SystemExit(f"the {kind} side failed")
    return json.loads(said[0].strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--worker", choices=("higher", "package"))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.worker:
        speed = time_higher() if arguments.worker == "higher" else time_package()
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(speed))
        return
    difference = check_gradients()
    if difference > 1e-5:
        raise SystemExit(f"the two sides compute different gradients: {difference:.1e}")
    speeds: dict[str, list[float]] = {"higher": [], "package": []}
    for _ in range(arguments.rounds):
        for kind, measured in speeds.items():
            measured.append(worker(kind))
            print(f"{kind:8s} {measured[-1]:6.1f} tasks/s", flush=True)
    ratio = statistics.median(speeds["package"]) / statistics.median(speeds["higher"])
    print(f"package / higher = {ratio:.2f}, gradients equal to {difference:.1e}")
    config = {"command": "python benchmarks/meta_training.py", "rounds": arguments.rounds}
    values = {"tasks_per_second": speeds, "ratio": ratio, "gradient_difference": difference}
    write_result(RESULT, config=config, values=values)


if __name__ == "__main__":
    main()
