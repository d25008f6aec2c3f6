"""Adaptation-aware pruning (Gao et al., ANP): claims, arms and jobs."""
