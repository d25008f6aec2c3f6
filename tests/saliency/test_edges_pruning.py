"""Pruning: frozen parameters, one switch for compensation, whole numbers, files with masks."""

import threading

import numpy as np
import pytest
import torch
from bilevel_cases import conv4, easy_source
from pruning_cases import prune as prune_on
from torch import nn

from metalearn_tut import MAML, meta_train, models, saliency
from metalearn_tut.evaluation import cost
from metalearn_tut.learners.maml import anil
from metalearn_tut.saliency import full_masks, layer_hessians, load_sparse, save_sparse

SAMPLER = easy_source().sampler(ways=3, shots=1, queries=2)
CONVS = [f"blocks.{i}.conv" for i in range(4)]


def learner(*frozen, make=MAML, **settings):
    model = conv4().float()
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    return make(model, 0.1, 2, **settings)


def prune(pruned, schedule=(0.3,), retrain=None, **settings):
    return prune_on(pruned, SAMPLER, schedule, retrain, **settings)


def values(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def trained(pruned, number=1):
    meta_train(pruned, SAMPLER, steps=2, tasks_per_step=2, outer_lr=0.05, progress=False)


# Frozen means frozen


FROZEN = {
    "a layer": ("blocks.1.conv.weight", "blocks.1.conv.bias"),
    "a weight, not its bias": ("blocks.1.conv.weight",),
    "a bias, not its weight": ("head.bias",),
    "the head": ("head.weight", "head.bias"),
    "norms": tuple(f"blocks.{i}.norm.{leaf}" for i in range(4) for leaf in ("weight", "bias")),
}


@pytest.mark.slow(quick=7)
@pytest.mark.parametrize("score", saliency.SCORES)
@pytest.mark.parametrize("name", FROZEN)
def test_frozen_parameters_are_not_scored_pruned_compensated_or_trained(name, score):
    frozen = tuple(n for n in FROZEN[name] if n in dict(conv4().named_parameters()))
    pruned = learner(*frozen)
    before = values(pruned.model)
    result = prune(pruned, (0.3, 0.2), trained, method=score)
    after = values(pruned.model)
    assert all(torch.equal(after[n], before[n]) for n in frozen)
    assert not set(frozen) & {*result.masks, *pruned.masks}
    fixed = [n for n in frozen if n.endswith("weight") and "norm" not in n]
    assert not any(n.removesuffix(".weight") in result.history[0]["layers"] for n in fixed)
    moved = [n for n in after if n not in frozen and not torch.equal(after[n], before[n])]
    assert len(moved) == len(after) - len(frozen)  # the others all are


def test_without_a_free_bias_compensation_is_the_refit_of_the_weights_alone():
    """Right value: ridge least squares on the layer's own inputs, the bias as it was."""
    pruned = learner("head.bias", make=anil).model.double()
    pruned = anil(pruned, 0.1, 0)
    with torch.no_grad():
        pruned.model.head.bias.copy_(torch.tensor([0.3, -0.2, 0.7]))
    before = values(pruned.model)
    tasks = SAMPLER.tasks(range(2))
    rows = torch.cat([saliency.layer_inputs(pruned, t)["head"] for t in tasks])
    assert rows.shape[1] == before["head.weight"].shape[1]  # no column of ones
    ridge = 1e-3
    result = prune(
        pruned, (0.4,), layers=["head"], update_hinv=True, guard=0.0, ridge=ridge, inner_steps=0
    )
    keep = result.masks["head.weight"]
    for unit, old in enumerate(before["head.weight"]):
        x, kept = rows, keep[unit]
        lhs = x[:, kept].T @ x[:, kept] / len(x) + ridge * torch.eye(int(kept.sum())).double()
        rhs = x[:, kept].T @ (x @ old) / len(x) + ridge * old[kept]
        found = pruned.model.head.weight[unit, kept].detach()
        torch.testing.assert_close(found, torch.linalg.solve(lhs, rhs), rtol=1e-7, atol=1e-9)
    assert torch.equal(pruned.model.head.bias, before["head.bias"])


def test_what_is_frozen_counts_as_fixed():
    free, part = prune(learner(), (0.3,)), prune(learner("head.weight", "head.bias"), (0.3,))
    sizes = {n: p.numel() for n, p in conv4().named_parameters()}
    for result in (free, part):
        gone = sum(int((~m).sum()) for m in result.masks.values())
        record = result.history[0]
        assert record["kept_all"] == pytest.approx(1 - gone / sum(sizes.values()))
        prunable = sum(m.numel() for m in result.masks.values())
        assert record["kept"] == pytest.approx(1 - gone / prunable)
    frozen = conv4().requires_grad_(False)
    assert cost.parameters(frozen) == sum(sizes.values())
    assert cost.parameters(frozen, part.masks) == sum(sizes.values()) - sum(
        int((~m).sum()) for m in part.masks.values()
    )


def test_a_network_without_a_free_layer_is_refused_in_one_sentence():
    model = conv4().float()
    for name, p in model.named_parameters():
        p.requires_grad_("norm" in name)
    with pytest.raises(ValueError, match=r"no layer that can be pruned: .* frozen \(requires_grad"):
        prune(MAML(model, 0.1, 1))
    with pytest.raises(ValueError, match=r"'head', which cannot be pruned: its weight is frozen"):
        prune(learner("head.weight"), layers=["head"])


def test_filters_of_frozen_layers_stay_and_freezing_and_modes_survive():
    model = models.Conv4(1, ways=3, width=4, image_size=16)
    model.blocks[1].norm.requires_grad_(False)  # so block 1 keeps its filters
    model.head.requires_grad_(False)  # and block 3, whose filters the head reads
    model.blocks[2].norm.eval()
    scores = {n: p.detach().abs() for n, p in model.named_parameters()}
    kept = saliency.best_filters(model, scores, 0.5)
    assert kept.keys() == {"blocks.0.conv", "blocks.2.conv"}
    narrow = saliency.remove_filters(model, kept)
    assert narrow.width == (2, 4, 2, 4)
    assert {n for n, p in narrow.named_parameters() if not p.requires_grad} == {
        n for n, p in model.named_parameters() if not p.requires_grad
    }
    assert [m.training for m in narrow.modules()] == [m.training for m in model.modules()]
    half = torch.tensor([True, True, False, False])
    for layer in ("blocks.1.conv", "blocks.3.conv"):
        with pytest.raises(ValueError, match=f"{layer} keeps all filters: .*requires_grad=False"):
            saliency.remove_filters(model, {layer: half})


# One switch for compensation


@pytest.mark.parametrize("score", saliency.SCORES)
def test_compensation_is_one_switch_for_every_score(score):
    """Off, what stays is bitwise what it was; on, by default, it is not; the ranking is one."""
    found = {}
    for how, settings in {
        "default": {},
        "on": {"compensate": True},
        "off": {"compensate": False},
    }.items():
        pruned = learner()
        masks = prune(pruned, method=score, **settings).masks
        found[how] = values(pruned.model), masks
    before = values(learner().model)
    weight = "blocks.2.conv.weight"
    for n, mask in found["off"][1].items():
        assert torch.equal(mask, found["on"][1][n])
        assert torch.equal(found["off"][0][n], before[n] * mask)
        assert torch.equal(found["default"][0][n], found["on"][0][n])
    assert not torch.equal(found["on"][0][weight], found["off"][0][weight])


def test_what_is_no_answer_to_whether_it_compensates_is_refused():
    with pytest.raises(ValueError, match="compensate must be one of True, False, got None"):
        prune(learner(), compensate=None)


# Whole numbers of any library


def test_counts_may_be_numpys():
    plain, other = learner(), learner()
    prune(plain, first_task=3, seed=2, patch_stride=2, inner_steps=1)
    counts = {"first_task": np.int64(3), "seed": np.uint8(2), "n_tasks": np.int32(2)}
    prune(other, **counts, patch_stride=np.int16(2), inner_steps=np.int64(1))
    assert all(torch.equal(p, values(plain.model)[n]) for n, p in values(other.model).items())


@pytest.mark.parametrize("name", ["n_tasks", "first_task", "seed", "patch_stride", "inner_steps"])
@pytest.mark.parametrize("bad", [True, 1.5, -1, "2"])
def test_what_is_no_count_is_refused(name, bad):
    pruned = learner()
    before = values(pruned.model)
    with pytest.raises((ValueError, TypeError, IndexError), match=r"must be an integer|index must"):
        prune(pruned, **{name: bad})
    assert all(torch.equal(p, before[n]) for n, p in values(pruned.model).items())


# Files give masks back


def test_a_sparse_file_gives_a_learner_its_masks_and_nothing_grows_again(tmp_path):
    pruned = learner()
    prune(pruned, (0.5,))
    file = tmp_path / "small.safetensors"
    save_sparse(file, pruned)
    other = learner()
    loaded = load_sparse(file, other)
    assert other.masks.keys() == pruned.masks.keys() == loaded.masks.keys()
    assert all(torch.equal(other.masks[n], m) for n, m in pruned.masks.items())
    trained(other)
    task = SAMPLER[0]
    adapted = other.adapt(task.support_x, task.support_y, steps=5).params
    for name, mask in pruned.masks.items():
        assert not values(other.model)[name][~mask].any()
        assert not adapted[name][~mask].any()


def test_a_file_of_a_round_and_a_sparse_one_leave_the_same_learner(tmp_path):
    pruned = learner()
    prune(pruned, (0.4,), trained, layers=CONVS[:2], out=tmp_path)
    save_sparse(tmp_path / "sparse.safetensors", pruned)
    by_round, by_file = learner(), learner()
    by_round.set_masks({"head.weight": torch.zeros(3, pruned.model.head.weight.shape[1])})
    saliency.load_round(tmp_path / "round_01.safetensors", by_round)
    load_sparse(tmp_path / "sparse.safetensors", by_file)
    for one in (by_round, by_file):
        assert one.masks.keys() == pruned.masks.keys()
        assert all(torch.equal(one.masks[n], m) for n, m in pruned.masks.items())
        assert all(torch.equal(p, values(pruned.model)[n]) for n, p in values(one.model).items())


def test_masks_that_a_learner_has_cannot_be_left_out_of_its_file(tmp_path):
    pruned = learner()
    prune(pruned, (0.4,), layers=CONVS[:1])
    first = set(pruned.masks)
    masks = prune(pruned, (0.4,), layers=CONVS[1:2]).masks
    assert not first & set(masks)
    save_sparse(tmp_path / "both.safetensors", pruned, masks)
    other = learner()
    assert load_sparse(tmp_path / "both.safetensors", other).masks.keys() == first | set(masks)
    assert other.masks.keys() == pruned.masks.keys()


def test_plain_tensors_need_masks_and_a_file_of_another_network_changes_nothing(tmp_path):
    with pytest.raises(ValueError, match="masks are needed where params are no learner"):
        save_sparse(tmp_path / "x.safetensors", {"weight": torch.ones(2)})
    save_sparse(tmp_path / "x.safetensors", {"weight": torch.ones(2)}, {})
    other = learner()
    other.set_masks(full_masks(other))
    before = values(other.model)
    with pytest.raises(ValueError, match="of another architecture"):
        load_sparse(tmp_path / "x.safetensors", other)
    assert other.masks and all(torch.equal(p, before[n]) for n, p in values(other.model).items())


# Scoring changes nothing that others see


def test_scoring_leaves_the_network_to_others():
    """Hooks on the learner's own layers would be called by whoever uses it meanwhile."""
    pruned, tasks = learner(), SAMPLER.tasks(range(6))
    expected = layer_hessians(pruned, tasks)
    task, found = SAMPLER[0], {}
    threads = [
        threading.Thread(target=lambda i=i: found.setdefault(i, layer_hessians(pruned, tasks)))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for _ in range(10):
        pruned.adapt(task.support_x, task.support_y)(task.query_x)
    for thread in threads:
        thread.join()
    for hessians in found.values():
        for name, h in expected.items():
            assert torch.equal(hessians[name].gram, h.gram) and hessians[name].rows == h.rows
    assert not any(m._forward_pre_hooks for m in pruned.model.modules())


def test_dropout_has_no_part_in_a_score():
    def make():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        return MAML(body, 0.1, 1)

    tasks = SAMPLER.tasks(range(2))
    for score in ("anp", "meta_taylor", "snip"):
        one, other = make(), make()
        first, _ = saliency.scores_of(one, tasks, score)  # the generator goes on from here
        second, _ = saliency.scores_of(other, tasks, score)
        assert all(torch.equal(first[n], second[n]) for n in first)


# Files hold the whole learner: also what is frozen, and what is counted instead of trained


def with_statistics(number, *frozen):
    """A learner whose network has buffers and, if asked, frozen layers, all of random numbers."""
    torch.manual_seed(number)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, 2)),
        *(nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(3)),
    )
    model(SAMPLER[0].support_x.float() / 255)  # moves statistics and counters
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    return MAML(model, 0.1)


def through_a_sparse_file(pruned, other, folder):
    save_sparse(folder / "x.safetensors", pruned)
    load_sparse(folder / "x.safetensors", other)


def through_a_round(pruned, other, folder):
    saliency.load_round(folder / "rounds" / "round_02.safetensors", other)


def through_a_resume(pruned, other, folder):
    prune(other, (0.2, 0.2), trained, out=folder / "rounds", resume=True)


def through_a_state_dict(pruned, other, folder):
    save_sparse(folder / "x.safetensors", pruned.model.state_dict(), pruned.masks)
    load_sparse(folder / "x.safetensors", other.model.state_dict())


@pytest.mark.slow(quick=4)
@pytest.mark.parametrize("frozen", [(), ("3",), ("1", "6"), ("0", "1", "3", "4")])
@pytest.mark.parametrize(
    "through",
    [through_a_sparse_file, through_a_round, through_a_resume, through_a_state_dict],
)
def test_what_is_read_is_the_learner_that_was_written_frozen_layers_and_buffers_included(
    tmp_path, through, frozen
):
    pruned, other = with_statistics(0, *frozen), with_statistics(1, *frozen)
    prune(pruned, (0.2, 0.2), trained, out=tmp_path / "rounds")
    through(pruned, other, tmp_path)
    expected, found = pruned.model.state_dict(), other.model.state_dict()
    assert [n for n, t in expected.items() if not torch.equal(t, found[n])] == []


# What retraining gives back


def without_masks(pruned, number):
    pruned.set_masks(None)


def with_a_weight_more(pruned, number):
    pruned.set_masks({**pruned.masks, "head.bias": torch.tensor([True, False, True])})


def with_other_masks(pruned, number):
    pruned.set_masks({n: torch.ones_like(m) for n, m in pruned.masks.items()})


@pytest.mark.parametrize("retrain", [without_masks, with_a_weight_more, with_other_masks])
def test_retraining_that_changes_masks_is_told_in_its_round(tmp_path, retrain):
    pruned = learner()
    with pytest.raises(RuntimeError, match=r"the mask of .* is another one after retraining"):
        prune(pruned, (0.3, 0.1), retrain, spare=["head"], out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["round_00.safetensors"]


def test_numbers_of_other_libraries_are_kept_with_their_round(tmp_path):
    told = {
        "tensor": torch.tensor(0.5),
        "numpy": np.float32(0.25),
        "several": [torch.tensor(3), np.arange(2), 4],
        "inside": {"n": np.int64(7), "none": None, "name": "x"},
        "not finite": torch.tensor(torch.inf),
    }
    expected = {
        "tensor": 0.5,
        "numpy": 0.25,
        "several": [3, [0, 1], 4],
        "inside": {"n": 7, "none": None, "name": "x"},
        "not finite": float("inf"),
    }
    first = prune(learner(), (0.1, 0.1), lambda learner, number: told, out=tmp_path)
    again = prune(learner(), (0.1, 0.1), None, out=tmp_path, resume=True)
    for history in (first.history, again.history):
        assert [record["retrained"] for record in history] == [expected, expected]


def test_a_note_is_compared_by_content(tmp_path):
    note = {"rates": torch.tensor([0.1, 0.2]), "steps": np.int64(5)}
    prune(learner(), (0.1,), note=note, out=tmp_path)
    prune(learner(), (0.1, 0.1), note={"rates": torch.tensor([0.1, 0.2]), "steps": 5},
          out=tmp_path, resume=True)  # fmt: skip
    for other, said in (({**note, "steps": 6}, "note.steps was 5, now 6"), (None, "note was")):
        with pytest.raises(ValueError, match=said):
            prune(learner(), (0.1, 0.1), note=other, out=tmp_path, resume=True)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, iter])
def test_any_sequence_of_shares_is_a_schedule(kind):
    expected = [r["kept"] for r in prune(learner(), (0.25, 0.125)).history]
    assert [r["kept"] for r in prune(learner(), kind([0.25, 0.125])).history] == expected


@pytest.mark.parametrize("schedule", [0.1, None, ["a"], [None], [[0.1, 0.2]]])
def test_what_is_no_schedule_is_refused_by_name(schedule):
    with pytest.raises(ValueError, match="schedule must be a sequence of shares"):
        prune(learner(), schedule)


@pytest.mark.parametrize("value", ["no", 2, None])
def test_what_is_no_answer_to_whether_hessians_are_updated_is_refused(value):
    with pytest.raises(ValueError, match="update_hinv must be one of True, False"):
        prune(learner(), update_hinv=value)


def test_filters_are_not_ranked_by_nan():
    model, scores = models.Conv4(1, 5, 4), {"blocks.0.conv.weight": torch.ones(4, 1, 3, 3)}
    scores["blocks.0.conv.weight"][1, 0, 2, 2] = torch.nan
    for call in (saliency.filter_scores, lambda *a: saliency.best_filters(*a, 0.5)):
        with pytest.raises(ValueError, match=r"blocks\.0\.conv\.weight'\] must not be NaN"):
            call(model, scores)


@pytest.mark.parametrize("kind", [list, np.array])
def test_filters_to_keep_may_be_a_list_or_an_array(kind):
    model, kept = models.Conv4(1, 5, 4), [True, False, True, True]
    narrow = saliency.remove_filters(model, {"blocks.0.conv": kind(kept)})
    assert torch.equal(narrow.blocks[0].conv.weight, model.blocks[0].conv.weight[[0, 2, 3]])


# Weights with two readers


class Readers(nn.Module):
    """Two linear layers, which may share a weight, be one layer, or be one under two names."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 4)
        if how == "tied":
            self.second = nn.Linear(4, 4)
            self.second.weight = self.first.weight
        if how == "two names":
            self.second = self.first
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        again = getattr(self, "second", self.first)
        return self.last(torch.tanh(again(torch.tanh(self.first(x.flatten(1)[:, :4])))))


@pytest.mark.parametrize(
    "settings",
    [{"method": "anp"}, {"method": "lobs", "compensate": False}, {"method": "magnitude"}],
)
def test_a_hessian_of_one_reader_is_refused_before_any_work(tmp_path, settings):
    """Of a tied weight the inputs of one layer alone were seen, and compensated for."""
    pruned = MAML(Readers("tied"), 0.1)
    before = values(pruned.model)
    with pytest.raises(ValueError, match=r"'first' shares its weight with 'second'"):
        prune(pruned, out=tmp_path, **{"compensate": True, **settings})
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(p, before[n]) for n, p in pruned.model.named_parameters())
    with pytest.raises(ValueError, match=r"'first' shares its weight with 'second'"):
        layer_hessians(pruned, SAMPLER.tasks(range(2)))


@pytest.mark.parametrize("score", ["magnitude", "snip", "random"])
def test_a_tied_weight_is_pruned_by_what_needs_no_hessian(score):
    pruned = MAML(Readers("tied"), 0.1)
    masks = prune(pruned, (0.5,), trained, method=score, compensate=False).masks
    assert pruned.model.second.weight is pruned.model.first.weight
    assert not pruned.model.second.weight[~masks["first.weight"]].any()


@pytest.mark.parametrize("how", ["used twice", "two names"])
def test_a_layer_that_is_used_twice_has_the_inputs_of_both_uses(how):
    pruned = MAML(Readers(how), 0.1)
    task = SAMPLER.tasks(range(1))
    x = task[0].support_x.flatten(1)[:, :4].float()
    with torch.no_grad():
        rows = torch.cat([x, torch.tanh(pruned.model.first(x))]).double()
    rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1)
    found = layer_hessians(pruned, task, inner_steps=0, ridge=0.0)["first"].matrix
    torch.testing.assert_close(found, rows.T @ rows / len(rows), rtol=1e-6, atol=1e-8)
