"""ABP on CIFAR-10, ResNet-32 and ResNet-56, ratios 0.4 and 0.6. Not run yet.

    METALEARN_TUT_DATA=folder python tools/paper_scale/abp.py --device cuda

Per depth: a network with gates (60 epochs, rate 0.1), two epochs of distillation after every prune
(0.01), the rest of 60 more epochs without (0.05), down half a cosine each; and for each ratio the
unpruned network with as many epochs of each kind. Batches of 256 in single precision, 45,000
training images, one seed: planned for 30 minutes of one GPU. Interrupted, the same command goes
on. Changes of accuracy, with the paired interval over the 10,000 test images, go to
`results/paper_scale/abp.json` beside the paper's. If the data folder holds JPEG images, say so:
`--images` is written into the result. With `--tiny` all of it takes two minutes on a processor,
measures nothing, and is written to `--out`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from at_scale import complete, options

from metalearn_tut.block_voting import block_budget
from metalearn_tut.claims import Job, Results
from metalearn_tut.claims.abp.jobs import pruned, train_gated, unpruned
from metalearn_tut.claims.arms import Arms
from metalearn_tut.models import CifarResNet

RATIOS = (0.4, 0.6)
PAPER = {  # change of test accuracy in points; its networks and data set, its training unknown
    32: {0.4: 0.33, 0.6: -0.37},
    56: {0.4: 0.34, 0.6: -0.08},
}


def setup(depth: int, device: str, tiny: bool) -> dict[str, Any]:
    """How the network with gates is trained, and the epochs of what follows."""
    epochs = (
        {"gates": 1, "round": 1, "final": 1} if tiny else {"gates": 60, "round": 2, "final": 60}
    )
    rates = {"gates": 0.1, "round": 0.01, "final": 0.05}
    sizes = {"train": 200, "validation": 10, "test": 100}
    full = {"train": 45_000, "validation": 10, "test": 10_000}
    return {
        "data": {"name": "cifar10", **(sizes if tiny else full)},
        "classes": 10,
        "depth": depth,
        "gate": "soft1",
        "batch": 50 if tiny else 256,
        "augment": {"padding": 4, "flip": True},
        "recipes": {stage: {"epochs": epochs[stage], "lr": rates[stage]} for stage in epochs},
        "name": f"gates{depth}-0",
        "seed": 0,
        "device": device,
    }


def jobs(depths: list[int], device: str, tiny: bool) -> list[Job]:
    """The networks with gates, then for each ratio the pruned one and the whole one."""
    found = []
    for depth in depths:
        base = setup(depth, device, tiny)
        found.append(Job(base["name"], base, train_gated))
        for ratio in RATIOS:
            n, each = block_budget(CifarResNet(depth), ratio), base["recipes"]["round"]["epochs"]
            final = max(1, base["recipes"]["final"]["epochs"] - n * each)
            shared = {"gates": base, "epochs": each, "final": final}
            arm = {**shared, "voting": {"n_prune": n}}
            found.append(Job(f"abp{depth}-{ratio}-0", arm, pruned))
            found.append(Job(f"unpruned{depth}-{ratio}-0", {**shared, "rounds": n}, unpruned))
    return found


def summary(values: dict[str, dict[str, Any]], jobs: Sequence[Job]) -> dict[str, Any]:
    """Accuracies, changes, and the share of multiply-adds saved, beside the paper's changes."""
    arms, rows = Arms(Results(values), (0,), 1, of="images"), []
    for depth in (job.config["depth"] for job in jobs if job.run is train_gated):
        for ratio in RATIOS:
            ours, whole = f"abp{depth}-{ratio}", f"unpruned{depth}-{ratio}"
            macs = [values[f"{arm}-0"]["macs"] for arm in (ours, whole)]
            rows.append(
                {
                    "depth": depth,
                    "ratio": ratio,
                    "saved": 1 - macs[0] / macs[1],
                    "accuracy": {"abp": arms.mean(ours), "unpruned": arms.mean(whole)},
                    "abp - unpruned": arms.minus(ours, whole).to_dict(),
                    "paper, points": PAPER[depth][ratio],
                }
            )
    return {"rows": rows}


def main() -> None:
    """Run what is missing, then write what came out."""
    parser = options(__doc__, "abp")
    parser.add_argument("--depths", type=int, nargs="+", default=[32, 56], choices=[32, 56])
    parser.add_argument("--images", default="original", help="what the data folder holds")
    given = parser.parse_args()
    about = {"images": given.images, "device": given.device}
    complete("abp", jobs, given.depths, summary, given, **about)


if __name__ == "__main__":
    main()
