"""The checks of chapter 1's exercises accept what is right and refuse what is not."""

import pytest
import torch
import torch.nn.functional as F

from metalearn_tut.nb.chapters import chapter01
from metalearn_tut.tasks import as_float


def known_by_difference_from_chance(accuracy, ways):
    return (accuracy - 1 / ways) / (1 - 1 / ways)


def sound_by_sets(support, query, per_class):
    rows = [s + q for s, q in zip(support.tolist(), query.tolist(), strict=True)]
    classes = [{image // per_class for image in row} for row in rows]
    images = [image for row in rows for image in row]
    return (
        all(len(c) == 1 for c in classes)
        and len(set.union(*classes)) == len(rows)
        and len(set(images)) == len(images)
    )


def sound_by_tensors(support, query, per_class):
    table = torch.cat([support, query], 1)
    classes = table.div(per_class, rounding_mode="floor")
    return (
        (classes.amin(1) == classes.amax(1)).all()
        & (classes[:, 0].unique().numel() == classes.shape[0])
        & (table.unique().numel() == table.numel())
    )


def blurred(images):
    return F.avg_pool2d(as_float(images), 3, 1, 1).flatten(1)


def smoothed(images):
    weights = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0])
    kernel = torch.outer(weights, weights)[None, None] / 256
    return F.conv2d(as_float(images), kernel, padding=2).flatten(1)


RIGHT = {
    "known_share": [lambda a, n: (n * a - 1) / (n - 1), known_by_difference_from_chance],
    "is_sound": [sound_by_sets, sound_by_tensors],
    "features": [blurred, smoothed],
}
WRONG = {
    "known_share": [
        lambda a, n: a,
        lambda a, n: a - 1 / n,
        lambda a, n: (a - 1 / n) / (1 + 1 / n),
        lambda a, n: 1 - a,
        lambda a, n: float("nan"),
    ],
    "is_sound": [
        lambda s, q, m: True,
        lambda s, q, m: False,
        # each forgets one rule
        lambda s, q, m: len(set(s.flatten().tolist()) & set(q.flatten().tolist())) == 0,
        lambda s, q, m: torch.cat([s, q], 1).unique().numel() == s.numel() + q.numel(),
        lambda s, q, m: sound_by_sets(s, s[:, :0], m) and sound_by_sets(q, q[:, :0], m),
        lambda s, q, m: bool((torch.cat([s, q], 1) // m == s[:, :1] // m).all()),
        lambda s, q, m: "yes" if sound_by_sets(s, q, m) else "",
    ],
    "features": [
        lambda x: as_float(x).flatten(1),  # the pixels themselves
        lambda x: torch.zeros(len(x), 3),
        lambda x: as_float(x).flatten(1).amax(1, keepdim=True),
        lambda x: as_float(x),  # not flat
        lambda x: x.flatten(1),  # not floating
        lambda x: blurred(x) - blurred(x).mean(0),  # depends on the other images
    ],
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_are_accepted(name, capsys):
    for answer in RIGHT[name]:
        getattr(chapter01, f"check_{name}")(answer)
        assert capsys.readouterr().out.endswith(": correct\n")


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_are_refused(name):
    for n, answer in enumerate(WRONG[name]):
        with pytest.raises(AssertionError) as error:
            getattr(chapter01, f"check_{name}")(answer)
        assert len(str(error.value)) > 20, f"{name} {n}: the message must say why"


@pytest.mark.parametrize("name", RIGHT)
def test_no_answer_is_no_error(name, capsys):
    def mine(*args):
        raise NotImplementedError

    getattr(chapter01, f"check_{name}")(mine)
    assert capsys.readouterr().out.endswith(": not attempted yet\n")
