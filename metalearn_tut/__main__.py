"""``python -m metalearn_tut`` is the command ``metalearn-tut``."""

from metalearn_tut.cli.program import main

if __name__ == "__main__":
    main()
