"""A learner as one file: its size, the time and memory of learning a task, and its accuracy.

    python benchmarks/on_device.py

Each learner of the package is written whole, as float16, and in halves. Learning a task (its
support set and one query per class) is timed in onnxruntime and in PyTorch in turns, with one
thread and with two, and the most memory is that of a fresh process which does nothing else (on
Linux). Accuracies are those of the same tasks, in PyTorch and from each file; `int8` is the
classifying half with the weights of each task, quantized by onnxruntime. To
`results/benchmarks/on_device.json`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from metalearn_tut import pretrained, tasks
from metalearn_tut.deployment import export_learner, write_learned
from metalearn_tut.deployment.onnx_model import Session
from metalearn_tut.evaluation import interval
from metalearn_tut.files.provenance import write_result
from metalearn_tut.tasks import Task, TaskSampler, as_float

RESULT = Path(__file__).parents[1] / "results" / "benchmarks" / "on_device.json"
SHAPE = (1, 28, 28)
LEARNERS = ("glyphs_5way_1shot", "glyphs_5way_1shot_small", "glyphs_5way_5shot")
THREADS = (1, 2)
Answer = Callable[[Task], Tensor]

PEAK = """
import re
import numpy as np
{imports}
def memory(kind):
    return int(re.search(kind + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
open("/proc/self/clear_refs", "w").write("5")  # the peak so far is forgotten
before = memory("VmRSS")
x, y = np.random.rand({support}, 1, 28, 28).astype("float32"), np.arange({support}) % 5
{work}
print(memory("VmHWM") - before)
"""
IN_FILE = """
session = onnxruntime.InferenceSession({path!r}, providers=["CPUExecutionProvider"])
for _ in range(5):
    session.run(None, {{"support_x": x, "support_y": y, "query_x": x[:5]}})
"""
IN_TORCH = """
learner = pretrained.load({name!r})
x, y = torch.from_numpy(x), torch.from_numpy(y)
for _ in range(5):
    learner.adapt(x, y)(x[:5])
"""


def shots_of(name: str) -> int:
    return int(name.split("_")[2].removesuffix("shot"))


def files(name: str, folder: Path) -> dict[str, Path]:
    """The learner's files by their kind."""
    learner = pretrained.load(name)
    paths = {kind: folder / f"{kind}.onnx" for kind in ("whole", "half", "adapt", "classify")}
    export_learner(learner, paths["whole"], SHAPE)
    export_learner(learner, paths["half"], SHAPE, half=True)
    export_learner(learner, paths["adapt"], SHAPE, classify=paths["classify"])
    return paths


def whole(path: Path, threads: int = 1) -> Answer:
    """The answer of a whole file."""
    session = Session(path.read_bytes(), threads)
    return lambda task: session(as_float(task.support_x), task.support_y, as_float(task.query_x))


def quantized(paths: dict[str, Path], sizes: list[int]) -> Answer:
    """The answer of what was learned, quantized anew for each task; notes the sizes."""
    adapt, learned = Session(paths["adapt"].read_bytes(), 1), paths["adapt"].with_name("int8.onnx")

    def answer(task: Task) -> Tensor:
        weights = adapt.named(support_x=as_float(task.support_x), support_y=task.support_y)
        sizes.append(write_learned(paths["classify"], weights, learned, int8=True))
        return Session(learned.read_bytes(), 1)(as_float(task.query_x))

    return answer


def in_torch(name: str) -> Answer:
    """The answer of the learner itself."""
    learner = pretrained.load(name)
    return lambda task: learner.adapt(task.support_x, task.support_y)(task.query_x)


def rights(answers: dict[str, Answer], sampler: TaskSampler, count: int) -> dict[str, list[int]]:
    """How many queries of each task each of them names rightly."""
    found: dict[str, list[int]] = {name: [] for name in answers}
    for i in range(count):
        task = sampler[i]
        for name, answer in answers.items():
            found[name].append(int((answer(task).argmax(1) == task.query_y).sum()))
    return found


def accuracies(found: dict[str, list[int]], queries: int) -> dict[str, Any]:
    """Mean accuracy with its interval, and in how many tasks it is not PyTorch's."""
    values = {}
    for name, counts in found.items():
        mean, half_width = interval(torch.tensor(counts) / queries)
        others = sum(a != b for a, b in zip(counts, found["torch"], strict=True))
        values[name] = {"accuracy": mean, "interval": half_width, "tasks_that_differ": others}
    return values


def times(name: str, path: Path, task: Task, repeats: int) -> dict[str, dict[str, float]]:
    """Median milliseconds to learn a task and answer, by number of threads, in turns."""
    values: dict[str, dict[str, float]] = {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        sides = {"onnxruntime": whole(path, threads), "torch": in_torch(name)}
        took: dict[str, list[float]] = {side: [] for side in sides}
        for repeat in range(repeats + 3):
            for side, answer in sides.items():
                start = time.perf_counter()
                answer(task)
                if repeat >= 3:  # before, caches fill
                    took[side].append(1e3 * (time.perf_counter() - start))
        values[str(threads)] = {side: median(each) for side, each in took.items()}
    torch.set_num_threads(1)
    return values


def peaks(name: str, path: Path) -> dict[str, int]:
    """Kilobytes that loading and learning add to a process that has imported what it needs."""
    support = 5 * shots_of(name)
    sides = {
        "onnxruntime": ("import onnxruntime", IN_FILE.format(path=str(path))),
        "torch": ("import torch\nfrom metalearn_tut import pretrained", IN_TORCH.format(name=name)),
    }
    found = {}
    for side, (imports, work) in sides.items():
        program = PEAK.format(imports=imports, work=work, support=support)
        run = [sys.executable, "-c", program]
        found[side] = int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    return found


def measured(name: str, count: int, repeats: int) -> dict[str, Any]:
    """All of one learner."""
    sampler = tasks.glyphs("test").sampler(5, shots_of(name), 15, seed=1)
    alone = tasks.glyphs("test").sampler(5, shots_of(name), 1, seed=1)[0]
    with TemporaryDirectory() as folder:
        paths, int8 = files(name, Path(folder)), []
        answers = {kind: whole(paths[kind]) for kind in ("whole", "half")}
        answers = {"torch": in_torch(name), **answers, "int8": quantized(paths, int8)}
        found = rights(answers, sampler, count)
        return {
            "bytes": {kind: path.stat().st_size for kind, path in paths.items()}
            | {"int8": int(median(int8)), "safetensors": pretrained.path(name).stat().st_size},
            "milliseconds": times(name, paths["whole"], alone, repeats),
            "peak_kilobytes": peaks(name, paths["whole"]),
            "tasks": accuracies(found, 75),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--learner", action="append", choices=LEARNERS)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULT)
    told = parser.parse_args()
    torch.set_num_threads(1)
    values = {}
    for name in told.learner or LEARNERS:
        values[name] = measured(name, told.tasks, told.repeats)
        print(name, values[name], flush=True)
    config = {"command": "python benchmarks/on_device.py", "tasks": told.tasks, "seed": 1}
    config |= {"repeats": told.repeats, "onnxruntime": version("onnxruntime")}
    write_result(told.out, config=config, values=values)


if __name__ == "__main__":
    main()
