"""A meta-training step on two cores: this package beside `higher`, learn2learn and TorchOpt.

    python benchmarks/meta_training.py

Second-order MAML with four tasks per step, 5-way, 15 queries per class. A side draws the tasks,
computes the meta-gradient and takes a step of Adam. With equal means, every side has one process
on two cores, and the C library keeps its memory (`metalearn_tut.machine.keep_memory`). `package`
is this package as it comes. The peers run their own loop as their READMEs show it, on a Conv4 as
usually written, in the usual memory layout; `as its README shows` they do so without that memory,
and for some cases on the package's own Conv4, to tell network and engine apart. One worker in
place of two, and two processes (`--processes 2`), show what either adds.

First the gradients of all sides on one task are compared with the package's, in float64 and in
float32: the differences are relative to the largest entry. Then every side goes through the
cases in a fresh process, in turns, `--rounds` times. An interrupted run goes on where it was. The
seconds per step, and how many times faster the package is, go to
`results/benchmarks/meta_training.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from cases import INNER_LR, TASKS, Case
from rounds import Log, beside, fresh, in_turns
from sides import PEERS, OrdinaryConv4, versions
from torch import Tensor, nn

from metalearn_tut import MAML, bilevel, meta_train
from metalearn_tut.machine import keep_memory
from metalearn_tut.tasks import TaskBatch
from metalearn_tut.training.processes import Processes

RESULT = Path(__file__).parents[1] / "results" / "benchmarks" / "meta_training.json"
SMALL = (*(Case(32, 28, shots, k) for shots in (1, 5) for k in (1, 5)), Case(64, 28, 1, 1))
TOLERANCE = 1e-5
LARGE = (Case(32, 84, 1, 1), Case(32, 84, 1, 5))
SOME = (Case(32, 28, 1, 1), Case(32, 28, 1, 5))


class Side(NamedTuple):
    """Whose loop, on whose network, in how many processes of how many threads."""

    peer: str | None = None
    engine: str = "functional"
    processes: int = 1
    threads: int = 2
    workers: int | None = None
    memory: bool = True
    our_network: bool = False
    cases: tuple[Case, ...] = SMALL + LARGE

    def network(self, case: Case, dtype: torch.dtype = torch.float32) -> nn.Module:
        net = case.network().to(dtype)
        return OrdinaryConv4(net) if self.peer and not self.our_network else net

    def begin(self) -> None:
        """What this process has, before it works."""
        torch.set_num_threads(self.threads)
        if self.memory:
            keep_memory()


SHOWN = "{}, as its README shows"
SIDES = {
    "package": Side(),
    "package, one worker": Side(workers=1),
    "package, two processes": Side(processes=2, threads=1),
    "package, one thread": Side(threads=1, cases=SOME),
    "package, all tasks at once": Side(engine="vectorised", cases=SOME),
    "package, engine higher": Side(engine="higher", cases=SOME),
    **{peer: Side(peer) for peer in PEERS},
    **{SHOWN.format(peer): Side(peer, memory=False) for peer in PEERS},
    **{f"{peer}, our network": Side(peer, our_network=True, cases=SOME) for peer in PEERS},
}


def gradient_of(side: Side, net: nn.Module, case: Case) -> Callable[[TaskBatch], dict]:
    """A function that computes the meta-gradient of a batch."""
    if side.peer is None:
        inner = {"inner_lr": INNER_LR, "inner_steps": case.steps, "engine": side.engine}
        return lambda batch: bilevel.meta_gradient(net, batch, **inner)
    peer = PEERS[side.peer](net, INNER_LR, case.steps)

    def gradient(batch: TaskBatch) -> dict[str, Tensor]:
        net.zero_grad()
        peer.meta_gradient(batch)
        return {name: p.grad for name, p in net.named_parameters()}

    return gradient


def differences(sides: Sequence[str], case: Case, device: str = "cpu") -> dict[str, dict]:
    """Largest difference from the package's gradient, relative to its largest entry.

    Of two tasks; of one where images are large, since all sides take long there.
    """
    batch = case.sampler().batch(0, 2 if case.size == 28 else 1).to(device)
    found: dict[str, dict[str, float]] = {side: {} for side in sides}
    for dtype in (torch.float64, torch.float32):

        def gradient(side: str, dtype: torch.dtype = dtype) -> dict[str, Tensor]:
            net = SIDES[side].network(case, dtype).to(device)
            return gradient_of(SIDES[side], net, case)(batch)

        ours = gradient("package")
        scale = max(g.abs().max() for g in ours.values())
        for side in sides:
            theirs = gradient(side)
            gap = max(((g - theirs[name]).abs().max() / scale).item() for name, g in ours.items())
            found[side][str(dtype).removeprefix("torch.")] = gap
    return found


def trainer(side: Side, case: Case) -> Callable[..., object]:
    """A function that trains for so many steps, of so many tasks each."""
    net, sampler = side.network(case), case.sampler()
    if side.peer is None:
        learner = MAML(net, INNER_LR, case.steps, engine=side.engine)
        return lambda steps, tasks=TASKS: meta_train(
            learner,
            sampler,
            steps=steps,
            tasks_per_step=tasks,
            workers=side.workers,
            progress=False,
        )
    peer = PEERS[side.peer](net, INNER_LR, case.steps)
    outer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def train(steps: int, tasks: int = TASKS) -> None:
        for step in range(steps):
            outer.zero_grad()
            peer.meta_gradient(sampler.batch(step, tasks))
            outer.step()

    return train


def seconds_per_step(train: Callable[..., object], budget: float) -> float:
    """Measured over as many steps as fit into ``budget`` seconds, after half of one to warm up."""

    def seconds(steps: int, tasks: int = TASKS) -> float:
        start = time.perf_counter()
        train(steps, tasks)
        return time.perf_counter() - start

    half = torch.tensor([seconds(1, TASKS // 2)])
    Processes.joined(half.device).copy_from_first([half])  # all take the same number of steps
    steps = min(max(round(budget / (2 * half.item())), 1), 100)
    return seconds(steps) / steps


def measured(values: dict[str, dict], times: dict[str, list[dict[str, float]]]) -> None:
    """Add to the values of every case the seconds of its sides and their ratios."""
    for case, found in values.items():
        seconds = {side: [r[case] for r in each if case in r] for side, each in times.items()}
        found["seconds"] = {side: each for side, each in seconds.items() if each}
        found |= beside(found["seconds"], "package", PEERS)
        shown = {peer: found["seconds"].get(SHOWN.format(peer)) for peer in PEERS}
        shown = {peer: each for peer, each in shown.items() if each}
        ours = {"package": found["seconds"]["package"]}
        found["as_shown"] = beside({**shown, **ours}, "package", PEERS)


def present() -> list[str]:
    """The sides that are installed."""
    return [name for name, side in SIDES.items() if side.peer in {None, *versions()}]


def work(arguments: argparse.Namespace, cases: Sequence[Case]) -> dict:
    """What a fresh process is told to do."""
    if arguments.compare:
        torch.set_num_threads(2)
        return {str(case): differences(json.loads(arguments.compare), case) for case in cases}
    side = SIDES[arguments.worker]
    side.begin()
    return {str(case): seconds_per_step(trainer(side, case), arguments.budget) for case in cases}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=0.5, help="seconds to time a case for")
    parser.add_argument("--cases", type=json.loads, default=SMALL + LARGE)
    parser.add_argument("--compare-only", action="store_true", help="the gradients, no times")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--compare", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    cases = [Case(*case) for case in arguments.cases]
    if arguments.worker or arguments.compare:
        print(json.dumps(work(arguments, cases)))
        return
    config = {"command": "python benchmarks/meta_training.py", "rounds": arguments.rounds}
    config |= {"seconds": arguments.budget, "tasks_per_step": TASKS, "inner_lr": INNER_LR}
    log = Log(arguments.out, **config, cases=[str(case) for case in cases])
    found = {str(case): {"differences": compared(log, case)} for case in cases}
    if arguments.compare_only:
        return
    times = in_turns(log, present(), arguments.rounds, lambda side: timed(side, cases, arguments))
    measured(found, times)
    gaps = [gap["float64"] for case in found.values() for gap in case["differences"].values()]
    log.finish({"gradient_difference": max(gaps), "cases": found})


def compared(log: Log, case: Case) -> dict[str, dict[str, float]]:
    """The differences of all sides; it is an error if one computes another gradient."""
    kinds = {}  # sides that differ in their means alone have one gradient
    for name in present():
        side = SIDES[name]
        if case in side.cases or case not in SMALL + LARGE:
            kinds.setdefault((side.peer, side.engine, side.our_network), name)
    sides = list(kinds.values())
    arguments = ["--compare", json.dumps(sides), "--cases", json.dumps([case])]
    found = log.get(f"gradients, {case}", lambda: fresh("meta_training.py", arguments)[0])
    for side, gaps in found[str(case)].items():
        if not gaps["float64"] < TOLERANCE:
            raise SystemExit(f"{side} computes another gradient: {gaps['float64']:.1e} ({case})")
    return found[str(case)]


def timed(side: str, cases: Sequence[Case], arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds per step of each case that the side takes part in."""
    own = [case for case in cases if case in SIDES[side].cases or case not in SMALL + LARGE]
    given = ["--worker", side, "--budget", str(arguments.budget), "--cases", json.dumps(own)]
    processes, threads = SIDES[side].processes, SIDES[side].threads
    return fresh("meta_training.py", given, processes, threads)[0]


if __name__ == "__main__":
    main()
