"""Rank losses over tasks (Si et al.): its claims, jobs and tasks."""
