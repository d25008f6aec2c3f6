"""What a sampler's tasks are made of, told by its content: settings() and fingerprint()."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from metalearn_tut import tasks
from metalearn_tut.files.content import content_hash, described
from metalearn_tut.files.mapped import MappedImages
from metalearn_tut.tasks import Mixture, NoisyTasks, Pool, Task, TaskSampler, WithOutliers
from metalearn_tut.tasks.omniglot.runs import OmniglotRuns

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 1, 4, 4), dtype=np.uint8)
LABELS = np.arange(24) // 6


def source(x=PIXELS, y=LABELS, **options):
    return tasks.from_arrays(x, y, **options)


def altered(row):
    """The same images but for one pixel of one row, by one gray level of 255."""
    x = PIXELS.copy()
    x[row, 0, 2, 3] ^= 1
    return x


# --- the fingerprint of a source --------------------------------------------------------


@pytest.mark.parametrize("row", [0, 11, 23])
def test_one_gray_level_of_one_pixel_is_noticed(row):
    assert source(altered(row)).fingerprint() != source().fingerprint()


GROUPS = ["a", "a", "b", "b"]
OTHERS = {
    "order within a class": lambda: source(PIXELS[np.r_[1, 0, 2:24]]),
    "order of classes": lambda: source().select([1, 0, 2, 3]),
    "one class fewer": lambda: source().select([0, 1, 2]),
    "dtype": lambda: source(PIXELS.astype(np.float32)),
    "shape": lambda: source(PIXELS.reshape(24, 1, 2, 8)),
    "names": lambda: source(y=LABELS + 1),
    "groups": lambda: source(groups=GROUPS),
    "other groups": lambda: source(groups=["a", "b", "b", "b"]),
    "within groups": lambda: replace(source(groups=GROUPS), within_group=True),
    "turns": lambda: source().rotated(),
    "an image of the next class": lambda: source(y=np.r_[LABELS[:5], 1, LABELS[6:]]),
}


def test_all_that_decides_tasks_is_in_the_fingerprint():
    found = {name: make().fingerprint() for name, make in OTHERS.items()}
    found["as it is"] = source().fingerprint()
    assert len(set(found.values())) == len(found)


def test_the_same_content_elsewhere_has_the_same_fingerprint(tmp_path):
    expected = source().fingerprint()
    shuffled = np.random.default_rng(1).permutation(24)
    rows = tuple(np.argsort(shuffled)[r] for r in source().rows)  # elsewhere in memory
    np.save(tmp_path / "x.npy", PIXELS)
    for other in (
        source(name="another name"),
        source(torch.from_numpy(PIXELS.copy())),
        replace(source(), images=PIXELS[shuffled], rows=rows),
        replace(source(), images=MappedImages(tmp_path / "x.npy")),
        replace(source(), images=np.asfortranarray(PIXELS)),
        replace(source(), class_names=tuple(map(np.str_, source().class_names))),
    ):
        assert other.fingerprint() == expected


def test_either_byte_order_has_the_same_fingerprint():
    x = np.random.default_rng(2).normal(size=(24, 3)).astype("<f4")
    little, big = (replace(source(x), images=x.astype(order)) for order in ("<f4", ">f4"))
    assert little.fingerprint() == big.fingerprint() == source(x).fingerprint()


def test_a_large_class_is_read_in_pieces_and_wholly(monkeypatch):
    monkeypatch.setattr(sys.modules[tasks.ClassSource.__module__], "_AT_ONCE", 40)  # two images
    last = altered(5)
    assert source(last).fingerprint() != source().fingerprint()


def test_the_fingerprint_is_computed_once(monkeypatch):
    one = source()
    first = one.fingerprint()
    monkeypatch.setattr(type(one), "_contents", None)
    assert one.fingerprint() == first


def test_golden_fingerprint_on_every_machine():
    """Written down once: runs on file are compared with it."""
    x = np.arange(24, dtype=np.float32).reshape(12, 2)
    assert source(x, np.arange(12) % 3).fingerprint() == GOLDEN
    code = (
        "import numpy as np; from metalearn_tut import tasks\n"
        "x = np.arange(24, dtype=np.float32).reshape(12, 2)\n"
        "print(tasks.from_arrays(x, np.arange(12) % 3).fingerprint())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == GOLDEN


GOLDEN = "be5be81b2f97c4b80b7dfadd5b114acf"


# --- settings of samplers ---------------------------------------------------------------


class Doubled(TaskSampler):
    """A reader's own wrapper that says nothing about itself."""

    def __init__(self, sampler, factor=2):
        self.sampler, self._factor, self.calls = sampler, factor, 0

    def __getitem__(self, index):
        self.calls += 1
        task = self.sampler[index]
        return replace(task, query_x=task.query_x * self._factor)


class Declared(Doubled):
    decided_by = ("sampler", "_factor")


class Louder(tasks.EpisodeSampler):
    """A subclass of a sampler of the package: what it adds is not in the package's list."""

    def __getitem__(self, index):
        task = super().__getitem__(index)
        return replace(task, support_x=task.support_x + self.more)

    more = 1


class Brief(TaskSampler):
    """A list that ends after two tasks."""

    def __init__(self, scale):
        self.scale = scale

    def __getitem__(self, index):
        if index > 1:
            raise IndexError(index)
        x, y = torch.full((2, 1), self.scale, dtype=torch.bfloat16), torch.arange(2)
        return Task(x, y, x, y)


def episodes(x=PIXELS, seed=0, shots=1):
    return source(x).sampler(3, shots, 2, seed)


def runs(value):
    x, y = torch.full((2, 1), value), torch.arange(2)
    return OmniglotRuns([Task(x, y, x, y)] * 20)


FAR = altered(7)
PAIRS = {
    "another image": lambda: (episodes(), episodes(FAR)),
    "another seed": lambda: (episodes(), episodes(seed=1)),
    "more shots": lambda: (episodes(), episodes(shots=2)),
    "pool of": lambda: (Pool(episodes(), 9), Pool(episodes(FAR), 9)),
    "pool size": lambda: (Pool(episodes(), 9), Pool(episodes(), 10)),
    "noise of": lambda: (NoisyTasks(episodes(), 0.1), NoisyTasks(episodes(FAR), 0.1)),
    "noise rate": lambda: (NoisyTasks(episodes(), 0.1), NoisyTasks(episodes(), 0.2)),
    "noise kind": lambda: (NoisyTasks(episodes(), 0.1), NoisyTasks(episodes(), 0.1, "random")),
    "outliers": lambda: (
        WithOutliers(episodes(), episodes(seed=1), 0.1),
        WithOutliers(episodes(), episodes(FAR, seed=1), 0.1),
    ),
    "mixture of": lambda: (Mixture([episodes()], [1]), Mixture([episodes(FAR)], [1])),
    "weights": lambda: (
        Mixture([episodes(), episodes()], [1, 1]),
        Mixture([episodes(), episodes()], [1, 2]),
    ),
    "waves": lambda: (tasks.sinusoid(), tasks.sinusoid(amplitude=(0.1, 5.1))),
    "official runs": lambda: (runs(1.0), runs(2.0)),
    "a reader's own": lambda: (Doubled(episodes()), Doubled(episodes(), 3)),
    "the data of a reader's own": lambda: (Doubled(episodes()), Doubled(episodes(FAR))),
    "declared": lambda: (Declared(episodes()), Declared(episodes(), 3)),
    "a subclass and its class": lambda: (episodes(), Louder(source(), 3, 1, 2)),
    "a list that ends": lambda: (Brief(1.0), Brief(2.0)),
    "within noise within a pool": lambda: (
        Pool(NoisyTasks(Mixture([episodes()], [1]), 0.5), 4),
        Pool(NoisyTasks(Mixture([episodes(FAR)], [1]), 0.5), 4),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_settings_are_json_equal_for_equal_tasks_and_different_for_others(name):
    one, other = (sampler.settings() for sampler in PAIRS[name]())
    again = PAIRS[name]()[0].settings()
    assert json.loads(json.dumps(one)) == one == again
    assert one != other


def test_a_subclass_that_changes_its_tasks_is_noticed():
    one = Louder(source(), 3, 1, 2).settings()
    other = type("Louder", (Louder,), {"more": 2})(source(), 3, 1, 2).settings()
    assert one["sampler"] == other["sampler"] and one != other
    assert one["source"] == source().settings()


def test_using_a_sampler_does_not_change_its_settings():
    sampler = Doubled(episodes())
    before = sampler.settings()
    sampler.batch(0, 5)
    assert sampler.settings() == before and sampler.calls > 5


def test_settings_do_not_depend_on_numpy_numbers():
    plain = source().sampler(3, 1, 2, 7)
    numpy = source().sampler(np.int64(3), np.uint8(1), np.int32(2), np.uint64(7))
    assert plain.settings() == json.loads(json.dumps(numpy.settings()))
    waves = tasks.sinusoid(np.int64(3), amplitude=(np.float64(1), np.float32(2)))
    assert waves.settings() == json.loads(
        json.dumps(tasks.sinusoid(3, amplitude=(1.0, 2.0)).settings())
    )


def test_described_values():
    assert described((1, np.array([1.0]), {"a": None})) == [
        1,
        content_hash([np.array([1.0])]),
        {"a": None},
    ]
    assert described(object()) == described(object())
    assert described(tasks.ClassSource) == "metalearn_tut.tasks.source.ClassSource"
    half = torch.tensor([1.5], dtype=torch.bfloat16)
    assert described(half) != described(half.view(torch.int16)) != described(half.float())
