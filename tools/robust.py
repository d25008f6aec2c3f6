"""Does what the chapters say hold for other trainings, too? ``python tools/robust.py``

Every chapter runs with the seeds 1 to 5, and with one and two threads; each of its assertions must
hold. An executed copy of each run stays in ``build/robust``; a run is not done again while it is
newer than the chapter, so that what was stopped goes on.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from run_notebook import run

ROOT = Path(__file__).parents[1]
SEEDS, THREADS = (1, 2, 3, 4, 5), (1, 2)


def chapters(book: Path) -> list[Path]:
    """The notebooks that train with the seed that they are given."""
    return [p for p in sorted(book.glob("*.ipynb")) if "nb.start()" in p.read_text("utf-8")]


def broken(
    paths: Sequence[Path], seeds: Sequence[int], threads: Sequence[int], out: Path
) -> Iterator[str]:
    """Run what was not run yet; a sentence for every run that fails."""
    plan = [*product(paths, seeds, threads)]
    for number, (path, seed, n) in enumerate(plan, start=1):
        what = f"{path.stem}, seed {seed}, {n} thread{'s' * (n > 1)}"
        result = out / f"{seed}-{n}" / path.name
        if result.is_file() and result.stat().st_mtime > path.stat().st_mtime:
            print(f"[{number}/{len(plan)}] {what}: done before", flush=True)
            continue
        os.environ |= {"METALEARN_TUT_SEED": str(seed), "METALEARN_TUT_THREADS": str(n)}
        try:
            seconds = run(path, result)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            print(f"[{number}/{len(plan)}] {what}: FAILS", flush=True)
            yield f"{what}: {error}"
        else:
            print(f"[{number}/{len(plan)}] {what}: holds, {seconds:.0f} s", flush=True)


def main() -> None:
    """Run all, then say which failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", help="such as 07 08; all by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--threads", nargs="+", type=int, default=THREADS)
    asked = parser.parse_args()
    paths = chapters(ROOT / "book")
    if unknown := [n for n in asked.chapters if not any(p.stem.startswith(n) for p in paths)]:
        raise SystemExit(f"no chapter begins with {', '.join(unknown)}")
    if asked.chapters:
        paths = [p for p in paths if p.stem.startswith(tuple(asked.chapters))]
    found = list(broken(paths, asked.seeds, asked.threads, ROOT / "build" / "robust"))
    if found:
        raise SystemExit("\n\n".join(found))


if __name__ == "__main__":
    main()
