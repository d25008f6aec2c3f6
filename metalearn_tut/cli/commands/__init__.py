"""What each command does: the function of its name, in a module of its name."""
