"""Adaptation-aware pruning (Gao et al.): its claims, arms and jobs."""
