"""From a PyTorch dataset to tasks: the same images and labels, held or read for each task."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from metalearn_tut import tasks
from metalearn_tut.tasks import dataset as module


class Pictures(Dataset):
    """As in torchvision: images and targets, a transform for each, names of the classes."""

    def __init__(self, images, targets, target_transform=None):
        self.images, self.targets, self.target_transform = images, targets, target_transform
        self.read = []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        assert type(i) is int  # lists and some file readers take no other
        self.read.append(i)
        label = self.targets[i]
        return self.images[i], self.target_transform(label) if self.target_transform else label


def pictures(n=24, classes=3, **settings):
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (n, 3, 4, 4), dtype=torch.uint8, generator=generator)
    return Pictures(images, [i % classes for i in range(n)], **settings)


def same_tasks(a, b, **episode):
    for index in range(5):
        one, two = (source.sampler(**episode)[index] for source in (a, b))
        for name in ("support_x", "support_y", "query_x", "query_y"):
            x, y = getattr(one, name), getattr(two, name)
            assert x.dtype == y.dtype and torch.equal(x, y)
    return True


@pytest.mark.parametrize("in_memory", [True, False])
def test_tasks_are_those_of_the_same_arrays(in_memory):
    dataset = pictures()
    expected = tasks.from_arrays(dataset.images, dataset.targets)
    source = tasks.from_dataset(dataset, in_memory=in_memory)
    assert same_tasks(source, expected, ways=3, shots=2, queries=3)
    assert source.fingerprint() == expected.fingerprint()
    assert source.class_names == ("0", "1", "2") and source.name == "Pictures"


def test_what_is_held_is_read_once_and_stays():
    dataset = pictures()
    source = tasks.from_dataset(dataset)
    assert sorted(dataset.read) == sorted([0, *range(24)])  # the first twice, for its shape
    before = source.images.copy()
    dataset.images.zero_()
    assert np.array_equal(source.images, before) and not source.images.flags.writeable


def test_large_datasets_are_read_task_by_task(monkeypatch):
    dataset = pictures()
    monkeypatch.setattr(module, "_HELD", 24 * 48)
    assert isinstance(tasks.from_dataset(dataset).images, np.ndarray)
    monkeypatch.setattr(module, "_HELD", 24 * 48 - 1)
    source = tasks.from_dataset(dataset)
    assert set(dataset.read) == set(range(24))
    dataset.read.clear()
    lazily = tasks.from_dataset(dataset)
    assert set(dataset.read) == {0}  # targets say the rest
    dataset.read.clear()
    task = lazily.sampler(ways=2, shots=1, queries=2)[0]
    assert len(dataset.read) == len(task.support_x) + len(task.query_x)
    assert isinstance(source.images, module.DatasetImages)
    assert source.as_supervised().images.shape == (24, 3, 4, 4)
    assert np.asarray(source.images).dtype == np.uint8


@pytest.mark.parametrize("attribute", ["targets", "labels", "y"])
@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_labels_of_a_dataset_are_not_read_from_its_items(attribute, kind):
    class Named(Pictures):
        def __getitem__(self, i):
            self.read.append(i)
            return self.images[i], torch.tensor(i % 3)  # equal, and of another kind

    dataset = Named(pictures().images, None)
    setattr(dataset, attribute, kind([i % 3 for i in range(24)]))
    source = tasks.from_dataset(dataset, classes=[2, 0], in_memory=False)
    assert set(dataset.read) == {0}
    assert source.class_names == ("2", "0")
    assert [r.tolist() for r in source.rows] == [list(range(1, 16, 2)), list(range(0, 16, 2))]


def test_a_part_has_the_labels_and_the_names_of_the_whole():
    whole = pictures()
    whole.classes = ["ant", "bee", "cow"]
    part = Subset(Subset(whole, range(1, 24)), range(0, 23, 2))  # items 1, 3, 5, ...
    source = tasks.from_dataset(part, in_memory=False)
    assert set(whole.read) == {1} and source.name == "Pictures"
    assert source.class_names == ("ant", "bee", "cow")
    odd = slice(1, 24, 2)
    expected = tasks.from_arrays(whole.images[odd], whole.targets[odd])
    assert same_tasks(source, expected, ways=3, shots=1, queries=2)


def test_labels_are_of_any_kind_that_can_be_told_apart():
    labels = [("bird", 1), None, "x", 3, np.int64(3), torch.tensor(3), 3.0, "x", None, ("bird", 1)]
    pairs = [(torch.full((2,), float(i)), label) for i, label in enumerate(labels)]
    source = tasks.from_dataset(pairs)  # no order among them: that of the items
    assert source.class_names == ("('bird', 1)", "None", "x", "3")
    assert [r.tolist() for r in source.rows] == [[0, 9], [1, 8], [2, 7], [3, 4, 5, 6]]
    words = tasks.from_dataset([(torch.zeros(2), w) for w in "bcab"])
    assert words.class_names == ("a", "b", "c")


def test_transformed_targets_are_those_of_the_items():
    dataset = pictures(target_transform=lambda y: "even" if y % 2 == 0 else "odd")
    for in_memory in (True, False):
        source = tasks.from_dataset(dataset, in_memory=in_memory)
        assert source.class_names == ("even", "odd") and source.count(0) == 16


def test_pictures_of_pillow_are_what_a_viewer_shows():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    color = Image.fromarray(pixels)
    assert np.array_equal(tasks.from_dataset([(color, 0)]).images[0], pixels.transpose(2, 0, 1))
    gray = Image.fromarray(pixels[..., 0])
    assert np.array_equal(tasks.from_dataset([(gray, 0)]).images[0], pixels[None, ..., 0])
    bits = gray.point(lambda v: 255 * (v > 127)).convert("1")
    black_or_white = tasks.from_dataset([(bits, 0)]).images[0, 0]
    assert np.array_equal(black_or_white, 255 * (pixels[..., 0] > 127))
    clear = Image.new("RGBA", (5, 4), (0, 0, 0, 0))
    assert (tasks.from_dataset([(clear, 0)]).images == 255).all()  # laid on white
    with pytest.raises(ValueError, match=r"item 0 of list must have 8 bits, got PIL mode 'I;16'"):
        tasks.from_dataset([(Image.new("I;16", (5, 4)), 0)])


def test_numbers_are_held_as_those_of_arrays():
    kinds = ["uint8", "int32", "float16", "float32", "float64", "bool"]
    for kind in kinds:
        x = np.arange(8).reshape(4, 2).astype(kind)
        expected = tasks.from_arrays(x, [0, 1, 0, 1]).images
        for rows in (x, torch.from_numpy(x)):
            found = tasks.from_dataset(list(zip(rows, [0, 1, 0, 1], strict=True))).images
            assert found.dtype == expected.dtype and np.array_equal(found, expected)
    pair = TensorDataset(torch.rand(6, 2), torch.arange(6) % 2)
    assert tasks.from_dataset(pair).count(0) == 3


def test_classes_that_are_small_are_left_out_and_named():
    with pytest.warns(UserWarning, match="left out 1 of 2 classes .* 'b' has 1"):
        tasks.from_dataset([(torch.zeros(2), label) for label in "aab"], min_images=2)


def test_images_that_change_are_held_or_refused():
    class Noisy(Pictures):
        def __getitem__(self, i):
            return torch.rand(3), self.targets[i]

    dataset = Noisy(range(6), [0, 1] * 3)
    held = tasks.from_dataset(dataset).sampler(2, 1, 2)
    assert torch.equal(held[0].query_x, held[0].query_x)
    with pytest.raises(ValueError, match="item 0 of Noisy is another one each time"):
        tasks.from_dataset(dataset, in_memory=False)


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(2), 0


class Dictionaries(Pictures):
    def __getitem__(self, i):
        return {"image": self.images[i]}


ONE, OTHER = (torch.zeros(3, 4, 4), "a"), (torch.zeros(3, 4, 5), "b")
REFUSED = [
    (Stream(), {}, TypeError, "needs a dataset with len(dataset) and dataset[i]"),
    (iter([ONE]), {}, TypeError, "got list_iterator"),
    ([], {}, ValueError, "list has no items"),
    (Dictionaries([1], [0]), {}, TypeError, "item 0 of Dictionaries must be a pair"),
    ([(1, 2, 3)], {}, TypeError, "must be a pair (image, label), got a tuple of 3"),
    ([("a.png", 0)], {}, TypeError, "must be a tensor, an array or a PIL image, got str"),
    ([ONE, OTHER], {}, ValueError, "item 0 is float32 [3, 4, 4], item 1 float32 [3, 4, 5]"),
    ([ONE, (ONE[0].double(), "a")], {}, ValueError, "item 1 float64 [3, 4, 4]"),
    ([ONE, (ONE[0] / 0, "a")], {}, ValueError, "row 1 has NaN or inf"),
    ([(np.zeros((5, 5, 3), np.uint8), 0)], {}, ValueError, "looks like [H, W, C]"),
    ([(np.array(["a"]), 0)], {}, TypeError, "must be of numbers, got <U1"),
    ([(ONE[0], [1, 2])], {}, TypeError, "label of item 0 of list must be hashable"),
    ([(ONE[0], torch.ones(2))], {}, TypeError, "one label, got a tensor of shape [2]"),
    ([(ONE[0], float("nan"))], {}, ValueError, "label of item 0 of list must not be NaN"),
    ([ONE], {"classes": ["z"]}, ValueError, "must be different labels of list ('a'), got ['z']"),
    ([ONE], {"classes": ["a", "a"]}, ValueError, "classes must be different labels"),
    ([ONE], {"classes": []}, ValueError, "classes must be different labels"),
    ([ONE], {"min_images": 2}, ValueError, "no class of list has 2 images"),
]


@pytest.mark.parametrize("dataset, settings, error, says", REFUSED)
def test_errors_name_the_item_and_what_is_allowed(dataset, settings, error, says):
    with pytest.raises(error, match=re.escape(says)):
        tasks.from_dataset(dataset, **settings)


def test_targets_that_are_not_the_labels_are_refused():
    dataset = pictures()

    class Wrong(Pictures):
        def __getitem__(self, i):
            return self.images[i], i % 3

    wrong = Wrong(dataset.images, [0] * 24)
    with pytest.raises(ValueError, match="item 1 of Wrong has the label 1, but its targets"):
        tasks.from_dataset(wrong)
    source = tasks.from_dataset(wrong, in_memory=False)  # seen when it is drawn
    with pytest.raises(ValueError, match="has the label"):
        np.asarray(source.images)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
@pytest.mark.parametrize("attribute", ["targets", "labels", "other"])
def test_a_label_may_be_an_array_of_one(kind, attribute):
    dataset, expected = pictures(), pictures()
    column = kind([[label] for label in expected.targets])
    pairs = [(image, label) for image, label in zip(expected.images, column, strict=True)]

    class Columns(Dataset):
        def __len__(self):
            return len(pairs)

        def __getitem__(self, i):
            return pairs[i]

    dataset = Columns()
    setattr(dataset, attribute, column)
    for in_memory in (True, False):
        source = tasks.from_dataset(dataset, in_memory=in_memory)
        assert source.class_names == ("0", "1", "2")
        assert same_tasks(source, tasks.from_dataset(expected), ways=3, shots=1, queries=2)


@pytest.mark.parametrize("names", [["a", "b", "c"], np.array(["a", "b", "c"])])
@pytest.mark.parametrize("label", [int, float])
def test_classes_have_the_names_that_the_dataset_gives_them(names, label):
    dataset = pictures()
    dataset.targets, dataset.classes = [label(t) for t in dataset.targets], names
    assert tasks.from_dataset(dataset).class_names == ("a", "b", "c")
    assert tasks.from_dataset(dataset, classes=[2.0, 1]).class_names == ("c", "b")


def test_a_mapping_is_no_list_of_pairs():
    with pytest.raises(TypeError, match=r"from_dataset needs a dataset .* got dict"):
        tasks.from_dataset({"image": [1], "label": [2]})
