"""Channel gates by federated meta-learning (Lin et al., MetaGater): claims, arms and jobs."""
