"""One meaning a letter, in the whole book; see ``contract.py``.

The page of the notation has a row for every meaning: at most twenty that all chapters share, and
others that say in which chapters they are used. That chapters use no other symbol is checked in
``contract_text.py``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from contract_text import KNOWN, symbols

SHARED = 20  # rows


def rows(page: str) -> list[tuple[set[str], set[str]]]:
    """Of each row of the notation its symbols, and the chapters that it is for (none: for all)."""
    found = []
    for row in re.findall(r"^\| \$.*$", page, flags=re.MULTILINE):
        only = " ".join(re.findall(r"\bin (?:chapters?|appendix) ((?:A?\d+(?:, | and )?)+)", row))
        found.append((symbols(row.split(" | ")[0]), set(re.findall(r"A?\d+", only))))
    return found


def collisions(page: str, used: Mapping[str, set[str]]) -> Iterator[str]:
    """Sentences about letters with two meanings or none.

    Parameters
    ----------
    page : str
        The page of the notation.
    used : mapping of str to set of str
        The symbols that each chapter uses, by its number.
    """
    table = rows(page)
    shared = sum(not only for _, only in table)
    if shared > SHARED:
        yield f"{shared} rows are for all chapters, {SHARED} are allowed"
    counts = Counter(symbol for names, _ in table for symbol in names)
    for symbol in sorted(counts):
        if counts[symbol] > 1:
            yield f"{symbol} stands in {counts[symbol]} rows: a letter has one meaning"
    for names, only in table:
        for symbol in sorted(names - KNOWN):
            where = {chapter for chapter in only or used if symbol in used.get(chapter, set())}
            if only - where or not where:
                unused = f"chapters {', '.join(sorted(only - where))}" if only else "any chapter"
                yield f"{symbol} has a row and is not used in {unused}"
