"""Nodes as clients of Flower: in one process, in several, or on machines far away."""
