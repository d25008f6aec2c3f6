"""Fewer filters: what belongs to each filter of a network, and a network without some of them."""

from metalearn_tut.models.filters.belongings import Filters, Place, filters_of
from metalearn_tut.models.filters.removal import Widen, remove_filters

__all__ = ["Filters", "Place", "Widen", "filters_of", "remove_filters"]
