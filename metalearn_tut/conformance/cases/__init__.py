"""The cases, a file for each kind."""

from __future__ import annotations

from metalearn_tut.conformance.case import Case
from metalearn_tut.conformance.cases.forwards import FORWARDS
from metalearn_tut.conformance.cases.images import IMAGES
from metalearn_tut.conformance.cases.learning import LEARNING
from metalearn_tut.conformance.cases.norms import NORMS
from metalearn_tut.conformance.cases.sequences import SEQUENCES
from metalearn_tut.conformance.cases.weights import WEIGHTS

GROUPS: dict[str, tuple[Case, ...]] = {
    "norms": NORMS,
    "images": IMAGES,
    "weights": WEIGHTS,
    "sequences": SEQUENCES,
    "what a forward pass does": FORWARDS,
    "what a learner offers": LEARNING,
}
CASES: tuple[Case, ...] = tuple(case for cases in GROUPS.values() for case in cases)
