"""Gated inference: what closed filters save, in multiply-adds and in time.

    python benchmarks/gated.py

A Conv4 of 64 channels with a gate at each convolution classifies one image, or 75 at a time, in
one process of two threads. In each layer a share of the filters is open, the same for all images.
`skipping` leaves the closed ones out (:func:`metalearn_tut.gating.skip`); beside it, in turns,
stands `no gates`, the network that a user would have otherwise. To
`results/benchmarks/gated.json`: the median seconds, and both ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metalearn_tut.files.provenance import write_result
from metalearn_tut.gating import ChannelGatedConv4, active_share, skip
from metalearn_tut.machine import keep_memory
from metalearn_tut.models import Conv4

RESULT = Path(__file__).parents[1] / "results" / "benchmarks" / "gated.json"
SHARES, SIZES, ROWS = (0.25, 0.5, 1.0), (28, 84), (1, 75)


def gated(channels: int, size: int, share: float) -> ChannelGatedConv4:
    """A network whose gates open the first filters of each layer and no others."""
    torch.manual_seed(0)
    plain = Conv4(channels, ways=5, width=64, norm="none", image_size=size)
    network = ChannelGatedConv4(plain).eval()
    with torch.no_grad():
        for gate in network.gates:
            gate.outer.weight.zero_()
            gate.outer.bias.fill_(-1.0)[: round(share * len(gate.outer.bias))] = 1.0
    return network


@torch.no_grad()
def measured(size: int, share: float, rows: int, seconds: float) -> dict[str, Any]:
    """Both networks in turns, for so long."""
    x = torch.rand(rows, 1 if size == 28 else 3, size, size)
    network = gated(x.shape[1], size, share)
    plain = network.ungated()
    torch.testing.assert_close(skip(network, x), network(x), rtol=1e-3, atol=1e-4)
    sides: dict[str, Callable[[], Tensor]] = {
        "skipping": lambda: skip(network, x),
        "no gates": lambda: plain(x),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["no gates"]) < 5:
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    middle = {name: statistics.median(each) for name, each in times.items()}
    ratio = middle["skipping"] / middle["no gates"]
    return {"seconds": middle, "time": ratio, "macs": active_share(network, x).mean().item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--budget", type=float, default=1.5, help="seconds for each case")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    keep_memory()
    values = {}
    for size in SIZES:
        for rows in ROWS:
            for share in SHARES:
                name = f"{size}x{size}, {rows} image{'s' * (rows > 1)}, {share:.0%} open"
                values[name] = found = measured(size, share, rows, arguments.budget)
                print(f"{name}: {found['macs']:.2f} of the multiply-adds, {found['time']:.2f}")
    config = {"command": "python benchmarks/gated.py", "seconds": arguments.budget}
    write_result(arguments.out, config=config, values=values)


if __name__ == "__main__":
    main()
