"""Channel gates by federated meta-learning (Lin et al.): its claims, arms and jobs."""
