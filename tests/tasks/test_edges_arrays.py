"""The reader's own arrays and numbers: one rule for every type, and counts of any library."""

import json
import warnings

import numpy as np
import pytest
import torch

from metalearn_tut import tasks
from metalearn_tut.checks import check_count, check_index, check_seed
from metalearn_tut.tasks import Mixture, NoisyTasks, Pool, WithOutliers

LABELS = np.arange(12) // 3
SMALL = np.arange(24).reshape(12, 2)

# --- copied, whatever the type ----------------------------------------------------------

ARRAYS = {
    "uint8": lambda: SMALL.astype(np.uint8),
    "float32": lambda: SMALL.astype(np.float32),
    "float64": lambda: SMALL.astype(np.float64),
    "int64": lambda: SMALL.astype(np.int64),
    "int32": lambda: SMALL.astype(np.int32),
    "half": lambda: SMALL.astype(np.float16),
    "bool": lambda: SMALL % 2 == 0,
    "columns first": lambda: np.asfortranarray(SMALL.astype(np.uint8)),
    "a view": lambda: np.repeat(SMALL.astype(np.uint8), 2, axis=0)[::2],
    "backwards": lambda: SMALL.astype(np.float32)[::-1],
    "tensor uint8": lambda: torch.tensor(SMALL, dtype=torch.uint8),
    "tensor float32": lambda: torch.tensor(SMALL, dtype=torch.float32),
    "tensor int64": lambda: torch.tensor(SMALL),
    "tensor bfloat16": lambda: torch.tensor(SMALL, dtype=torch.bfloat16),
    "tensor that learns": lambda: torch.tensor(SMALL, dtype=torch.float32, requires_grad=True),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_what_becomes_of_the_array_changes_no_task(name):
    x, y = ARRAYS[name](), LABELS.copy()
    source = tasks.from_arrays(x, y)
    before = np.array(source.images), source.fingerprint()
    task = source.sampler(3, 1, 1)[0]
    with torch.no_grad():
        x[:] = 1
    y[:] = 0
    np.testing.assert_array_equal(source.images, before[0])
    assert source.fingerprint() == tasks.from_arrays(before[0], LABELS).fingerprint()
    assert torch.equal(source.sampler(3, 1, 1)[0].query_x, task.query_x)
    with pytest.raises(ValueError, match="read-only"):
        source.images[0] = 1


def test_tasks_may_be_changed_and_change_no_other():
    source = tasks.from_arrays(SMALL.astype(np.float32), LABELS)
    sampler = source.sampler(3, 1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch warns of memory that it must not write to
        task = sampler[0]
    expected = task.support_x.clone()
    task.support_x.add_(1)
    assert torch.equal(sampler[0].support_x, expected)


KEPT = {
    np.uint8: np.uint8,
    np.int8: np.int64,
    np.int16: np.int64,
    np.uint16: np.int64,
    np.int32: np.int64,
    np.uint32: np.int64,
    np.int64: np.int64,
    np.uint64: np.int64,
    np.float16: np.float32,
    np.float32: np.float32,
    np.float64: np.float64,
    np.longdouble: np.float64 if np.dtype(np.longdouble).itemsize == 8 else np.float32,
    np.bool_: np.float32,
}


@pytest.mark.parametrize("given", KEPT)
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_type_becomes_what_the_table_says(given, order):
    source = tasks.from_arrays(SMALL.astype(np.dtype(given).newbyteorder(order)), LABELS)
    assert source.images.dtype == KEPT[given] and source.images.dtype.isnative
    expected = SMALL.astype(given).astype(np.float64)
    np.testing.assert_array_equal(source.images.astype(np.float64), expected)
    assert source.sampler(2, 1, 1)[0].query_x.dtype == torch.from_numpy(source.images.copy()).dtype


def test_token_ids_arrive_at_an_embedding():
    ids = torch.randint(0, 50, (12, 7), generator=torch.Generator().manual_seed(0))
    task = tasks.from_arrays(ids, LABELS).sampler(3, 1, 2)[0]
    table = torch.nn.Embedding(50, 4)
    assert table(task.support_x).shape == (3, 7, 4)
    known = {tuple(row.tolist()) for row in ids}
    assert {tuple(row.tolist()) for row in task.query_x} <= known


@pytest.mark.parametrize(
    "x, error, message",
    [
        (np.full((12, 2), 2**63, np.uint64), ValueError, "64 bits with a sign, got 92233720368547"),
        ([[2**70, 0]] * 12, TypeError, "x must be of numbers, got object"),
        (np.full((12, 2), 1e300).astype(np.longdouble), ValueError, "finite in float32.*row 0"),
        (torch.eye(12).to_sparse(), TypeError, "x must be an array: "),
        (np.zeros((12, 2), complex), TypeError, "x must be of numbers, got complex128"),
        (np.array([["a", "b"]] * 12), TypeError, "x must be of numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_what_has_no_place_in_the_table_is_refused(x, error, message):
    with pytest.raises(error, match=message):
        tasks.from_arrays(x, LABELS)


# --- classes with too few examples ------------------------------------------------------


def uneven(**options):
    """Classes "a" to "d" with 1, 2, 3 and 4 examples."""
    y = np.repeat(list("abcd"), [1, 2, 3, 4])
    return tasks.from_arrays(np.arange(10.0).reshape(10, 1), y, **options)


def test_classes_with_too_few_examples_are_left_out_by_name():
    message = r"toys: left out 2 of 4 classes with fewer than 3 images: 'a' has 1, 'b' has 2$"
    with pytest.warns(UserWarning, match=message):
        source = uneven(name="toys", min_images=3, groups=["g", "h", "i", "j"])
    assert source.class_names == ("c", "d") and source.groups == ("i", "j")
    assert source.images_of(0, range(3)).flatten().tolist() == [3, 4, 5]
    with pytest.warns(UserWarning, match="left out 3 of 4"):
        assert uneven().with_at_least(np.int64(4)).class_names == ("d",)
    assert uneven(min_images=1).class_names == uneven().class_names  # and no warning


def test_the_error_names_the_way_out_and_the_way_out_works():
    way = r"class 'a' of arrays has 1; source\.with_at_least\(3\), or min_images=3, leaves out"
    with pytest.raises(ValueError, match=way):
        uneven().sampler(2, 1, 2)
    with pytest.warns(UserWarning, match="left out"):
        assert uneven().with_at_least(3).sampler(2, 1, 2)[0].ways == 2


def test_many_left_out_are_counted_and_turns_and_groups_are_kept():
    y = np.r_[np.arange(600), np.repeat([600, 601], 4)]
    x = np.zeros((608, 1, 3, 3), np.uint8)
    source = tasks.from_arrays(x, y, groups=["g"] * 602).rotated()
    with pytest.warns(UserWarning, match=r"600 of 602 .*'9' has 1.* \(and 590 others\)$") as said:
        kept = source.with_at_least(2)
    assert len(str(said[0].message)) < 300
    assert kept.turns == 4 and kept.n_classes == 8 and kept.groups == ("g", "g")


@pytest.mark.parametrize("n", [0, -1, 1.5, True, None, "3"])
def test_a_least_number_is_a_count(n):
    with pytest.raises(ValueError, match=f"min_images must be an integer >= 1, got {n!r}"):
        uneven().with_at_least(n)
    with pytest.raises(ValueError, match="no class of arrays has 5 images: the largest has 4"):
        uneven(min_images=5)


# --- counts of any library --------------------------------------------------------------

FIVES = [5, np.int64(5), np.uint8(5), np.int32(5), np.array(5), torch.tensor(5), np.uint64(5)]
NO_COUNTS = [
    True,
    np.True_,
    torch.tensor(True),
    5.0,
    np.float64(5),
    "5",
    None,
    [5],
    np.array([5, 5]),
]


class Five:
    """A whole number of a library that nobody here has heard of."""

    def __index__(self):
        return 5


@pytest.mark.parametrize("five", [*FIVES, Five()], ids=lambda v: type(v).__name__)
def test_whole_numbers_of_every_library_count(five):
    assert check_count(n=five) == (5,) and type(check_count(n=five)[0]) is int
    assert type(check_seed(five)) is int and type(check_index(five)) is int
    source = tasks.from_arrays(np.arange(60.0).reshape(60, 1), np.arange(60) % 5)
    sampler, plain = (source.sampler(n, 1, n, seed=n) for n in (five, 5))
    assert torch.equal(sampler[five].query_x, plain[5].query_x)
    assert torch.equal(sampler.batch(five, five).query_x, plain.batch(5, 5).query_x)
    assert json.dumps(sampler.settings()) == json.dumps(plain.settings())
    assert (sampler.ways, type(sampler.ways), type(sampler.seed)) == (5, int, int)
    for wrapped in (
        Pool(plain, five),
        NoisyTasks(plain, 0.5, seed=five),
        Mixture([plain], [1], seed=five),
        WithOutliers(plain, plain, 0.5, seed=five),
        tasks.sinusoid(five, five, seed=five),
    ):
        json.dumps(wrapped.settings())
        assert wrapped[five].query_x.shape == wrapped[5].query_x.shape
    source.split(seed=five)


@pytest.mark.parametrize("wrong", NO_COUNTS, ids=repr)
def test_what_is_no_whole_number_is_refused(wrong):
    with pytest.raises(ValueError, match="n must be an integer >= 1, got "):
        check_count(n=wrong)
    with pytest.raises(ValueError, match="seed must be an integer"):
        check_seed(wrong)
    with pytest.raises(TypeError, match="task index must be an integer"):
        check_index(wrong)
    sampler = tasks.sinusoid()
    with pytest.raises(TypeError, match="step must be an integer"):
        sampler.batch(wrong, 2)
    with pytest.raises(ValueError, match="tasks_per_step must be an integer >= 1"):
        sampler.batch(0, wrong)
