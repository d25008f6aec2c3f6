"""The methods side by side: claims, arms and jobs."""
