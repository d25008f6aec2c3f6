"""Task-specific meta distillation (Wu et al., TSMD): claims, arms and jobs."""
