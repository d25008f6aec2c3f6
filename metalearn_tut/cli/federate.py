"""How ``metalearn-tut federate`` is spelled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from metalearn_tut.cli.options import (
    SEEDS,
    Device,
    Norm,
    Root,
    Rotations,
    Threads,
    TrainData,
    WithinGroup,
    choice,
    command,
    flag,
    option,
    typer,
)

FederatedAlgorithm = choice("FederatedAlgorithm", "metagater", "per_fedavg", "fedavg")
Update = choice("Update", "full", "first_order")


def federate(
    context: typer.Context,
    out: Annotated[Path, option("Folder for the checkpoints.", show_default=False)],
    data: Annotated[TrainData, option("What the nodes share out.")] = TrainData.glyphs,
    root: Root = None,
    rotations: Rotations = False,
    within_group: WithinGroup = False,
    nodes: Annotated[int, option("Nodes that train.", min=1)] = 50,
    classes_per_node: Annotated[int, option("Classes of a node.", min=2)] = 5,
    shots: Annotated[int, option("Support images of each class.", min=1)] = 1,
    queries: Annotated[int, option("Query images for each class, of any.", min=1)] = 15,
    seed: Annotated[
        int, option("Names nodes, tasks and the initial weights.", min=0, max=SEEDS)
    ] = 0,
    algorithm: Annotated[
        FederatedAlgorithm, option("How to learn; only metagater has gates.")
    ] = FederatedAlgorithm.metagater,
    norm: Annotated[
        Norm, option("Whose statistics normalize a query image; support is deployable.")
    ] = Norm.support,
    width: Annotated[int, option("Channels of Conv4's blocks.", min=1)] = 32,
    inner_lr: Annotated[float, option("Step size of a node's adaptation.")] = 0.4,
    gate_lr: Annotated[
        float | None, option("That of the gates.  [default: --inner-lr]", show_default=False)
    ] = None,
    sparsity: Annotated[
        float | None, option("Price of open filters.  [default: 2]", show_default=False)
    ] = None,
    target: Annotated[
        float | None,
        option("Share of open filters that is free.  [default: 0.5]", show_default=False),
    ] = None,
    warmup: Annotated[
        float | None, option("Share of training without the price.", show_default=False)
    ] = None,
    update: Annotated[
        Update, option("Meta-gradient: exact, or without second derivatives.")
    ] = Update.full,
    rounds: Annotated[int, option("Rounds of server and nodes.", min=1)] = 100,
    fraction: Annotated[float, option("Share of the nodes asked in a round.")] = 0.2,
    local_steps: Annotated[int, option("Steps of a node in a round.", min=1)] = 5,
    tasks_per_step: Annotated[int, option("Tasks of such a step.", min=1)] = 1,
    outer_lr: Annotated[float, option("Step size of these steps.")] = 0.2,
    gate_outer_lr: Annotated[
        float | None, option("That of the gates.  [default: 3]", show_default=False)
    ] = None,
    save_every: Annotated[int, option("Rounds between checkpoints.", min=1)] = 1,
    resume: Annotated[bool, flag("--resume", "Go on from the last checkpoint in --out.")] = False,
    threads: Threads = None,
    device: Device = "cpu",
) -> int:
    """Meta-train a learner on nodes that keep their images to themselves.

    The training classes are dealt out to --nodes, --classes-per-node each. In every round the
    server sends its learner to some of them; each takes steps on tasks of its own images, and
    the server averages what comes back. The nodes run one after another in this process; an
    interrupted run goes on with the same command and --resume, and ends as if it had not been
    interrupted. What evaluate does with the run is to let new nodes join, whose classes no
    node had: for metagater it also says what share of the multiply-adds their images need.

    \b
    Examples:
      metalearn-tut federate --out runs/gater --target 0.5
      metalearn-tut federate --out runs/plain --algorithm per_fedavg --rounds 50
      metalearn-tut federate --out runs/skewed --within-group --nodes 100
      metalearn-tut evaluate runs/gater
    """
    return command("federate", locals())
