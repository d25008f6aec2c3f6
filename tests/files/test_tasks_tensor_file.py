"""Files of tensors: what was written comes back to the bit, and damage does not go unnoticed."""

import os
import zlib

import pytest
import torch

from metalearn_tut.files.tensor_file import copy_tensors, read_tensors, write_tensors

TENSORS = {
    "ordinary": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "odd": torch.tensor([-0.0, float("nan"), float("inf"), 1e-45]),
    "double": torch.tensor(1 / 3, dtype=torch.float64),
    "yes or no": torch.tensor([True, False, True]),
    "empty": torch.zeros(0, 2),
}
STATE = {"run": {"rate": 0.1, "nothing": None}, "list": [1, "ä", 1e-300]}


def same_bits(a, b):
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8))
    )


def test_what_was_written_comes_back_to_the_bit(tmp_path):
    write_tensors(tmp_path / "new" / "file", TENSORS, STATE)
    tensors, state = read_tensors(tmp_path / "new" / "file")
    assert state == STATE and tensors.keys() == TENSORS.keys()
    assert all(same_bits(t, TENSORS[name]) for name, t in tensors.items())
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["file"]


def test_the_same_content_is_the_same_file(tmp_path):
    last = {"images": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)}
    for name in ("a", "b"):
        write_tensors(tmp_path / name, last, STATE)
        last = {"images": last["images"].contiguous().requires_grad_()}
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    small = {"w": torch.tensor([0.5, -0.25]), "b": torch.tensor([True])}
    write_tensors(tmp_path / "file", small, {"rate": 0.4, "name": "x"})
    data, unnoticed = (tmp_path / "file").read_bytes(), 0
    bits = range(0, 8 * len(data), 1 if os.environ.get("METALEARN_TUT_SLOW") == "1" else 7)
    for bit in bits:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / "file").write_bytes(flipped)
        try:
            tensors, state = read_tensors(tmp_path / "file")
        except ValueError:
            continue
        unnoticed += 1  # in what means nothing
        assert state == {"rate": 0.4, "name": "x"} and tensors.keys() == small.keys(), bit
        assert all(same_bits(t, small[name]) for name, t in tensors.items()), bit
    assert unnoticed < 0.02 * len(bits)


def test_the_checksum_of_the_first_versions_is_still_read(tmp_path):
    import json

    from safetensors.torch import save_file

    w = torch.tensor([1.0, 2.0])
    old = {"step": 3, "crc32": zlib.crc32(w.view(torch.uint8).numpy())}
    save_file({"w": w}, tmp_path / "file", {"state": json.dumps(old)})
    tensors, state = read_tensors(tmp_path / "file")
    assert state == {"step": 3} and torch.equal(tensors["w"], w)
    save_file({"w": w}, tmp_path / "file", {"state": json.dumps({**old, "crc32": 1})})
    with pytest.raises(ValueError, match="file is damaged, or not a checkpoint of this package"):
        read_tensors(tmp_path / "file")


def test_an_error_calls_the_file_what_it_was_to_be(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no sparse file at .*absent"):
        read_tensors(tmp_path / "absent", "sparse file")
    (tmp_path / "file").write_bytes(b"\1" * 100)
    with pytest.raises(ValueError, match="file is damaged, or not a sparse file of this package"):
        read_tensors(tmp_path / "file", "sparse file")


def test_tensors_are_copied_all_or_none():
    saved = {"a": torch.ones(2), "b": torch.ones(3)}
    into = {"a": torch.zeros(2), "b": torch.zeros(4)}
    with pytest.raises(ValueError, match=r"f is a checkpoint of another .*: b is \[3\] in the"):
        copy_tensors("f", saved, into)
    assert not into["a"].any()
    with pytest.raises(ValueError, match=r"c is absent in the file and \[1\] in the learner"):
        copy_tensors("f", saved, {**into, "b": torch.zeros(3), "c": torch.zeros(1)})
    copy_tensors("f", saved, {"a": into["a"], "b": torch.zeros(3)})
    assert into["a"].all()
