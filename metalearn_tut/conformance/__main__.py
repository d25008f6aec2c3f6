"""``python -m metalearn_tut.conformance my_module:meta_gradient``."""

from metalearn_tut.conformance.command import main

if __name__ == "__main__":
    raise SystemExit(main())
