"""Which tests are left to ``make test-all``, by their mark."""

from collections import Counter
from collections.abc import Iterable, Iterator

import pytest


def left_out(items: Iterable[pytest.Item]) -> Iterator[pytest.Item]:
    """Of ``slow`` all, of ``slow(quick=2)`` all but two, of ``slow(quick="a")`` those without a."""
    seen = Counter()
    for item in items:
        if (mark := item.get_closest_marker("slow")) is not None:
            function, _, case = item.nodeid.partition("[")
            quick = mark.kwargs.get("quick", 0)
            if not (quick in case if isinstance(quick, str) else seen[function] < quick):
                yield item
            seen[function] += 1
