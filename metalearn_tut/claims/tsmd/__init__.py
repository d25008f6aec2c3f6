"""Task-specific meta distillation (Wu et al.): its claims, arms and jobs."""
