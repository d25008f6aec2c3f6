"""Rank-based task losses (Si et al., HeTRoM): claims, arms and jobs."""
