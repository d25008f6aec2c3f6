"""The checks of each chapter's exercises, and what its figures need."""
