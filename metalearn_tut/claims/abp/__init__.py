"""Block pruning by gates and votes (Si, Qi and Song): its claims, arms and jobs."""
