"""HeTRoM (draft)."""

from metalearn_tut.claims.study import Study

STUDY = Study("hetrom", "x", (), lambda quick: [])
