"""Where randomness comes from: counter-based draws that no NumPy version may change."""

import math

import numpy as np
import pytest

from metalearn_tut.tasks.sampler import distinct, raw_draws, unit


def philox(seed, index, n, stream=0):
    """Philox4x64-10 (Salmon et al. 2011) written out: ``n`` draws from counter 1 on."""
    bits, mask, out = 64, 2**64 - 1, []
    for block in range(1, math.ceil(n / 4) + 1):
        a, b, c, d = block, 0, 0, stream
        k0, k1 = seed, index
        for _ in range(10):
            left, right = a * 0xD2E7470EE14C6C93, c * 0xCA5A826395121157
            a, b, c, d = (
                (right >> bits) ^ b ^ k0,
                right & mask,
                (left >> bits) ^ d ^ k1,
                left & mask,
            )
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
        out += [a, b, c, d]
    return out[:n]


@pytest.mark.parametrize(
    ("seed", "index", "stream"),
    [(0, 0, 0), (7, 123_456_789, 0), (2**63 + 5, 7, 0), (2**64 - 1, 2**64 - 1, 3)],
)
def test_draws_are_those_of_philox_written_out(seed, index, stream):
    assert raw_draws(seed, index, 9, stream) == philox(seed, index, 9, stream)


def test_seeds_above_2_63_do_not_merge():
    assert len({tuple(raw_draws(2**64 - 1 - s, 0, 2)) for s in range(4)}) == 4


def test_distinct_is_the_head_of_a_shuffle_of_the_whole_list():
    for seed in range(50):
        draws = raw_draws(seed, 0, 6)
        deck = list(range(9))
        for i, draw in enumerate(draws):
            j = i + draw % (9 - i)
            deck[i], deck[j] = deck[j], deck[i]
        assert distinct(draws, 9) == deck[:6]


def test_unit_numbers_fill_zero_to_one_without_one():
    assert unit(0) == 0.0
    assert unit(2**64 - 1) == 1 - 2.0**-53
    values = [unit(d) for d in raw_draws(0, 0, 4000)]
    assert abs(np.mean(values) - 0.5) < 4 / math.sqrt(12 * 4000)
