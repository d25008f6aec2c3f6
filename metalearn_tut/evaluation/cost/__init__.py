"""What a network costs, measured on the network itself: parameters, MACs, bytes, seconds.

Measure the network that is deployed. Zeros in a weight change none of these numbers; a network
rebuilt smaller does. With the masks of a pruned network the first three count what is kept: what
there is to store and, for a device that can skip zeros, to compute. Seconds are never saved by
masks here.
"""

from metalearn_tut.evaluation.cost.counts import macs, parameters
from metalearn_tut.evaluation.cost.measured import Cost, latency, measure, size_bytes

__all__ = ["Cost", "latency", "macs", "measure", "parameters", "size_bytes"]
