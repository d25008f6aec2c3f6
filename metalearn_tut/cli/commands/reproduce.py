"""What ``metalearn-tut reproduce`` does."""

from __future__ import annotations

from collections.abc import Sequence

from metalearn_tut import claims
from metalearn_tut.claims.report import criteria
from metalearn_tut.claims.report import reproduce as decide
from metalearn_tut.cli.checks import check_folder
from metalearn_tut.cli.options import Reproduce


def reproduce(o: Reproduce, arguments: Sequence[str]) -> int:
    """Run the jobs of one study or of all, and print what they decide."""
    if (o.study is not None) + o.all + o.list != 1:
        raise ValueError(f"name one study ({', '.join(claims.STUDIES)}), or give --all or --list")
    if o.list:
        print("\n\n".join(criteria(claims.load(name)) for name in claims.STUDIES))
        return 0
    if o.quick and o.pilot:
        raise ValueError("--quick and --pilot are two different runs: give one")
    check_folder("--out", o.out)
    check_folder("--results", o.results)
    names = claims.STUDIES if o.all else (o.study,)
    given = ("quick", "pilot", "only", "out", "results", "processes", "threads")
    options = {n: getattr(o, n) for n in given}
    ended = [decide(claims.load(n), **options) for n in names]
    return 0 if all(ended) else 1
