"""Sparse files: as small as their kept weights and bits, and the same network when read."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metalearn_tut import MAML
from metalearn_tut.files.tensor_file import read_tensors, write_tensors
from metalearn_tut.models import Conv4
from metalearn_tut.saliency.sparse import load_sparse, read_sparse, save_sparse


def network(width=16, seed=0):
    torch.manual_seed(seed)
    model = Conv4(1, ways=5, width=width, norm="support")
    nn.init.normal_(model.head.weight)
    return model


def pruned(model, kept=0.15, seed=0):
    """Random masks for everything but the norms; what they prune is set to 0 in the model."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, p in model.named_parameters():
        if ".norm." not in name:
            masks[name] = torch.rand(p.shape, generator=generator) < kept
            p.data[~masks[name]] = 0
    return masks


def data_bytes(path):
    """Size of a safetensors file without its header of names and JSON."""
    data = path.read_bytes()
    return len(data) - 8 - int.from_bytes(data[:8], "little")


def test_a_masked_network_comes_back_to_the_bit_and_computes_the_same(tmp_path):
    model, other = network(), network(seed=1)
    masks = pruned(model)
    config = {"model": {"name": "Conv4"}, "kept": 0.15}
    save_sparse(tmp_path / "net.safetensors", dict(model.named_parameters()), masks, config)
    file = load_sparse(tmp_path / "net.safetensors", dict(other.named_parameters()))
    assert file.config == config
    assert file.masks.keys() == masks.keys()
    assert all(torch.equal(file.masks[name], mask) for name, mask in masks.items())
    for name, p in model.named_parameters():
        for copy in (other.get_parameter(name), file.params[name]):
            assert torch.equal(copy.view(torch.int32), p.view(torch.int32)), name
    x = torch.rand(6, 1, 28, 28)
    assert torch.equal(other(x, n_support=5), model(x, n_support=5))


def test_the_file_is_as_small_as_kept_numbers_and_bits(tmp_path):
    model = network(width=32)
    masks = pruned(model)
    params = dict(model.named_parameters())
    save_sparse(tmp_path / "sparse", params, masks)
    save_sparse(tmp_path / "dense", params, {})
    kept = sum(int(mask.sum()) for mask in masks.values())
    total = sum(mask.numel() for mask in masks.values())
    norms = sum(p.numel() for n, p in params.items() if n not in masks)
    assert data_bytes(tmp_path / "sparse") == 4 * kept + -(-total // 8) + 4 * norms
    assert data_bytes(tmp_path / "dense") == 4 * (total + norms)
    assert (tmp_path / "sparse").stat().st_size < 0.25 * (tmp_path / "dense").stat().st_size


def test_a_learner_comes_back_with_rates_and_all(tmp_path):
    learner = MAML(network(), 0.1, 2, rate_mode="per_layer")
    masks = pruned(learner.model)
    save_sparse(tmp_path / "learner", learner.meta_parameters(), masks)
    again = MAML(network(seed=1), 0.3, 2, rate_mode="per_layer")
    load_sparse(tmp_path / "learner", again.meta_parameters())
    for name, p in learner.meta_parameters().items():
        assert torch.equal(again.meta_parameters()[name], p), name


@pytest.mark.parametrize("zeros_pruned", [31, 32, 33])  # of 1024 numbers, 32 cost as much as bits
def test_a_tensor_is_whole_where_that_is_smaller(tmp_path, zeros_pruned):
    w = torch.arange(1.0, 1025)
    w[:zeros_pruned] = 0
    save_sparse(tmp_path / "file", {"w": w}, {"w": w != 0})
    assert data_bytes(tmp_path / "file") == min(4 * 1024, 4 * (1024 - zeros_pruned) + 128)
    file = read_sparse(tmp_path / "file")
    assert torch.equal(file.params["w"], w) and torch.equal(file.masks["w"], w != 0)


@pytest.mark.parametrize("pruned", [0, 1])
def test_a_weight_that_is_kept_and_happens_to_be_zero_stays_kept(tmp_path, pruned):
    w, mask = torch.arange(-2.0, 98), torch.ones(100, dtype=torch.bool)
    w[:2], w[99], mask[:pruned] = 0, float("nan"), False
    save_sparse(tmp_path / "file", {"w": w}, {"w": mask})
    file = read_sparse(tmp_path / "file")
    assert torch.equal(file.masks["w"], mask)
    assert torch.equal(file.params["w"].view(torch.int32), w.view(torch.int32))
    assert data_bytes(tmp_path / "file") == (4 * 99 + 13 if pruned else 4 * 100)


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=4),
    kept=st.sampled_from([0.0, 0.1, 0.5, 0.98, 1.0]),
    dtype=st.sampled_from([torch.float16, torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 2**20),
)
def test_any_tensors_and_masks_come_back(tmp_path_factory, shapes, kept, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    names = [f"layer.{i}" for i in range(len(shapes))]
    masks = {
        n: torch.rand(shape, generator=generator) < kept
        for n, shape in zip(names, shapes, strict=True)
    }
    params = {
        n: torch.where(m, torch.randn(m.shape, generator=generator), 0).to(dtype)
        for n, m in masks.items()
    }
    path = tmp_path_factory.mktemp("any") / "file"
    save_sparse(path, {**params, "own": torch.ones(2)}, masks)
    file = read_sparse(path)
    assert file.params.keys() == {*names, "own"} and file.masks.keys() == set(names)
    for n in names:
        assert file.params[n].dtype == dtype and file.params[n].shape == params[n].shape
        assert torch.equal(file.params[n], params[n]) and torch.equal(file.masks[n], masks[n])


# Mistakes


def test_a_pruned_weight_that_is_not_zero_is_refused(tmp_path):
    model = network()
    masks = pruned(model)
    name = "blocks.2.conv.weight"
    with torch.no_grad():
        model.get_parameter(name)[~masks[name]] += torch.eye(1, int((~masks[name]).sum()))[0]
    with pytest.raises(ValueError, match=r"blocks\.2\.conv\.weight is not 0 in 1 places that"):
        save_sparse(tmp_path / "file", dict(model.named_parameters()), masks)
    with pytest.raises(ValueError, match="w is not 0 in 1 places"):
        save_sparse(tmp_path / "f", {"w": torch.tensor([float("nan")])}, {"w": torch.zeros(1) > 0})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ({"v": torch.ones(3).bool()}, "masks names no parameter of the model: v; .* are w"),
        ({"w": torch.ones(2).bool()}, r"masks\['w'\] must have shape \[3\], got \[2\]"),
    ],
)
def test_masks_that_do_not_fit_are_refused(tmp_path, mask, said):
    with pytest.raises(ValueError, match=said):
        save_sparse(tmp_path / "file", {"w": torch.ones(3)}, mask)


def test_another_architecture_is_refused_and_changes_nothing(tmp_path):
    model, wider = network(), network(width=20)
    save_sparse(tmp_path / "file", dict(model.named_parameters()), pruned(model))
    before = wider.blocks[0].conv.weight.detach().clone()
    with pytest.raises(
        ValueError, match=r"file is a sparse file of another .*\.0\.conv\.weight is"
    ):
        load_sparse(tmp_path / "file", dict(wider.named_parameters()))
    assert torch.equal(wider.blocks[0].conv.weight, before)


def test_damage_is_refused_and_absence_named(tmp_path):
    save_sparse(tmp_path / "file", {"w": torch.arange(9.0)}, {"w": torch.arange(9) > 0})
    data = (tmp_path / "file").read_bytes()
    flipped = bytes([*data[:-5], data[-5] ^ 1, *data[-4:]])
    for damaged in (data[:-1], flipped, b"\1" * 100, b""):
        (tmp_path / "file").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"file is damaged, or not a sparse file of this"):
            read_sparse(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match=r"no sparse file at .*absent"):
        read_sparse(tmp_path / "absent")


@pytest.mark.parametrize("wrong", ["a checkpoint", "too few kept"])
def test_what_is_whole_but_no_sparse_file_is_refused(tmp_path, wrong):
    w = torch.arange(40.0)
    save_sparse(tmp_path / "file", {"w": w * (w > 20)}, {"w": w > 20})
    tensors, state = read_tensors(tmp_path / "file")
    if wrong == "a checkpoint":
        del state["sparse"]
    else:
        tensors["kept.w"] = tensors["kept.w"][:-2]
    write_tensors(tmp_path / "file", tensors, state)
    with pytest.raises(ValueError, match=r"file is damaged, or not a sparse file of this"):
        read_sparse(tmp_path / "file")


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    from pathlib import Path

    save_sparse(tmp_path / "file", {"w": torch.ones(3)}, {})
    before = (tmp_path / "file").read_bytes()

    def full_disk(path, data):
        with path.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match=r"cannot write .*file: No space left"):
        save_sparse(tmp_path / "file", {"w": torch.zeros(3)}, {})
    assert [f.name for f in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == before
