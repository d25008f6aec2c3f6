"""All benchmarks, one after another: ``python benchmarks [--quiet] [NAME ...]``.

``--quiet`` are those whose times need a machine that does nothing else: fifteen minutes on two
cores. Each goes on where it was interrupted. `many_tasks` needs a GPU and is left out without one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

# In this order: what needs no quiet machine, the comparison with the peers, what is older.
QUIET = ("meta_training", "one_task", "limits", "gated", "where_time_goes", "on_device")
NAMES = (
    *("installation", "memory", *QUIET, "accuracy", "start_up"),
    *("many_tasks", "saliency", "sinusoid", "rank_losses"),
    "notebooks",  # last: it ends with 1 if one has become too dear
)


def main() -> None:
    here = Path(__file__).parent
    asked = [n for word in sys.argv[1:] for n in (QUIET if word == "--quiet" else [word])]
    if unknown := sorted(set(asked) - set(NAMES)):
        raise SystemExit(f"no benchmark is called {unknown[0]}: there are {', '.join(NAMES)}")
    for name in asked or NAMES:
        if name == "many_tasks" and not torch.cuda.is_available():
            print("many_tasks: not measured, there is no GPU", flush=True)
            continue
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, str(here / f"{name}.py")], check=True)


if __name__ == "__main__":
    main()
