"""Which way to a small learner is best? The claims, arms and jobs of chapter 8."""
