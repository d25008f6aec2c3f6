"""Make a shipped learner of emoji again, or train it with another seed or split.

    python tools/pretrain_emoji.py emoji_5way_1shot

Trains, writes `metalearn_tut/pretrained/NAME.safetensors`, and measures it once on 600 test tasks
of each kind (`results/emoji/NAME.json`). With another `--seed` or `--split-by` nothing is shipped:
the result is `results/emoji/NAME_SPLIT_SEED.json`. An interrupted training goes on.

The recipe was chosen on validation classes. A MAML learner first learns with one inner step, which
from a head at zero moves the head alone; then both steps of the whole network are trained. Its
tasks have 60 ways, since more rivals teach more, and every fourth class other colors. The gradient
of a mean over 60 classes is for each row of the head a twelfth of one over 5: its rates are made
smaller accordingly in the end.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from metalearn_tut import evaluate, meta_train, runs, tasks
from metalearn_tut.evaluation import Evaluation
from metalearn_tut.files.provenance import write_result
from metalearn_tut.learners import Learner
from metalearn_tut.tasks import Recolored
from metalearn_tut.training import checkpoint

ROOT = Path(__file__).parents[1]
SHIPPED = 0, "class"  # seed and split
TASKS = 600  # of every test
WAYS, QUERIES = 5, 4  # of validation and test tasks
TRAIN_WAYS, TRAIN_QUERIES = 60, 2
TESTS = ((5, False), (20, False), (5, True), (20, True))  # ways, and whether across artists
SECOND_RATE = 0.9  # of the head, at first


@dataclass(frozen=True)
class Recipe:
    """How a learner is trained; ``second`` is 0 for one without an inner loop.

    ``decay`` is of the network's weights, not of the learned rates; ``recolored`` the share of
    classes whose color channels change places; without ``augment`` drawings keep pose and tint.
    """

    width: int
    first: int
    second: int
    lr: float = 2e-3
    tasks_per_step: int = 1
    decay: float = 0.3
    recolored: float = 0.25
    augment: bool = True


RECIPES = {
    "emoji_5way_1shot": Recipe(width=64, first=3500, second=500),
    "emoji_5way_1shot_small": Recipe(width=12, first=5000, second=700, decay=0.1, recolored=0.0),
    "emoji_protonet": Recipe(width=64, first=3500, second=0),
    "emoji_protonet_not_augmented": Recipe(width=64, first=3500, second=0, augment=False),
}
COMPARED = ("emoji_protonet_not_augmented",)  # measured, not shipped


def configuration(
    recipe: Recipe, split_by: str, seed: int, inner_steps: int, ways: int
) -> dict[str, Any]:
    """What :func:`metalearn_tut.runs.build_learner` builds."""
    algorithm: dict[str, Any] = {"name": "protonet"}
    if recipe.second:
        rates = {"inner_lr": 1.0 if inner_steps == 1 else 0.03, "inner_steps": inner_steps}
        algorithm = {"name": "maml", **rates, "rate_mode": "per_layer_and_step", "zero_head": True}
    return {
        "data": {"name": "emoji", "split_by": split_by},
        "tasks": {"ways": ways, "shots": 1, "queries": TRAIN_QUERIES, "seed": seed},
        "model": {
            **{"name": "Conv4", "in_channels": 3, "ways": ways, "width": recipe.width},
            **{"norm": "group", "image_size": 32},
        },
        "algorithm": algorithm,
        "recipe": asdict(recipe),
    }


def stage(learner: Learner, config: dict[str, Any], folder: Path, steps: int, lr: float) -> None:
    """Train on tasks of quarter turns as classes of their own; keep the best."""
    ways, seed = config["tasks"]["ways"], config["tasks"]["seed"]
    split_by = config["data"]["split_by"]
    recipe = config["recipe"]
    known = tasks.emoji("train", split_by=split_by, augment=recipe["augment"])
    others = tasks.emoji("validation", split_by=split_by)
    queries = min(TRAIN_QUERIES, *(len(rows) - 1 for rows in known.rows + others.rows))
    turned = known.rotated().sampler(ways, 1, queries, seed)
    train, validation = (
        Recolored(turned, recipe["recolored"], seed),
        others.sampler(ways, 1, queries, seed),
    )
    named = dict(learner.named_parameters())
    rates = [p for name, p in named.items() if name.startswith("rates.")]
    weights = [p for name, p in named.items() if not name.startswith("rates.")]
    optimizer = AdamW(
        [
            {"params": weights, "weight_decay": recipe["decay"]},
            {"params": rates, "weight_decay": 0.0},
        ],
        lr,
    )
    meta_train(
        learner,
        train,
        steps=steps,
        tasks_per_step=recipe["tasks_per_step"],
        optimizer=optimizer,
        scheduler=CosineAnnealingLR(optimizer, steps),
        validation=validation,
        validate_every=max(1, steps // 8),
        validation_tasks=40,
        out=folder,
        config=config,
        resume=True,
    )


def given_to(second: Learner, first: Learner) -> None:
    """Give a learner the weights of another one, all but the head, which starts at zero."""
    own = second.state_dict()
    taken = {n: v for n, v in first.state_dict().items() if own[n].shape == v.shape}
    second.load_state_dict({**own, **taken})


def train(recipe: Recipe, split_by: str, seed: int, folder: Path) -> Learner:
    """The learner trained on tasks of many ways."""
    torch.manual_seed(seed)
    config = configuration(recipe, split_by, seed, 1, TRAIN_WAYS)
    one = runs.build_learner(config)
    stage(one, config, folder / "first", recipe.first, recipe.lr)
    if not recipe.second:
        return one
    config = configuration(recipe, split_by, seed, 2, TRAIN_WAYS)
    two = runs.build_learner(config)
    given_to(two, one)
    with torch.no_grad():
        for rate, before in _rates_of_head(two, one):
            rate[0], rate[1] = before[0], SECOND_RATE
    stage(two, config, folder / "second", recipe.second, recipe.lr / 3)
    return two


def for_ways(trained: Learner, config: dict[str, Any]) -> Learner:
    """The same learner for tasks of other ways."""
    learner = runs.build_learner(config)
    given_to(learner, trained)
    with torch.no_grad():
        for rate, before in _rates_of_head(learner, trained):
            rate.copy_(before * config["tasks"]["ways"] / TRAIN_WAYS)
    return learner


def _rates_of_head(learner: Learner, other: Learner) -> list[tuple[torch.Tensor, torch.Tensor]]:
    names = [n for n in getattr(learner, "learned_rates", {}) if "head" in n]
    return [(learner.learned_rates[n], other.learned_rates[n]) for n in names]


def accuracy(
    learner: Learner, split: str, split_by: str, cross_artist: bool
) -> tuple[Evaluation, int]:
    """On 600 tasks of as many queries as each class of the split allows, and how many."""
    source = tasks.emoji(split, split_by=split_by, cross_artist=cross_artist)
    queries = min(QUERIES, *(len(of) - 1 for of in source.rows)) - cross_artist
    sampler = source.sampler(learner.model.ways, 1, queries, seed=1)
    return evaluate(learner, sampler, TASKS), queries


def measured(learners: dict[int, Learner], name: str, split_by: str) -> list[dict[str, Any]]:
    """Accuracy on test tasks of each kind that the split allows."""
    rows = []
    for ways, cross_artist in TESTS if split_by == "class" else TESTS[:2]:
        result, queries = accuracy(learners[ways], "test", split_by, cross_artist)
        print(f"{name}: {result} {result.sampler}", flush=True)
        kind = {"split_by": split_by, "cross_artist": cross_artist, "ways": ways, "shots": 1}
        found = {"accuracy": result.mean, "half_width": result.half_width}
        rows.append({"method": name, **kind, "queries": queries, **found})
    return rows


def ship(name: str, learner: Learner, config: dict[str, Any]) -> None:
    """Write the file in the package, with what the learner is worth on validation classes."""
    result, _ = accuracy(learner, "validation", config["data"]["split_by"], False)
    steps = RECIPES[name].first + RECIPES[name].second
    worth = {"step": steps, "mean": result.mean, "half_width": result.half_width}
    whole, history = ROOT / "runs" / f"{name}.safetensors", {"validation": [worth]}
    kept = {key: value for key, value in config.items() if key != "recipe"}  # results have that
    checkpoint.save(whole, learner, step=steps, history=history, run={"config": kept})
    checkpoint.export(whole, ROOT / "metalearn_tut" / "pretrained" / whole.name)


def main() -> None:
    """Train what is named, ship it if it is the one to ship, and write down what it is worth."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--split-by", default="class", choices=("class", "artist", "both"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    name, split_by, seed = given.name, given.split_by, given.seed
    torch.set_num_threads(given.threads)
    recipe, label = RECIPES[name], f"{name}_{split_by}_{seed}"
    folder = ROOT / "runs" / label
    resumed, start = folder.exists(), time.process_time()
    trained = train(recipe, split_by, seed, folder)
    values = {"processor_seconds": round(time.process_time() - start), "resumed": resumed}
    inner_steps = 2 if recipe.second else 1
    configs = {ways: configuration(recipe, split_by, seed, inner_steps, ways) for ways, _ in TESTS}
    learners = {ways: for_ways(trained, config) for ways, config in configs.items()}
    if (seed, split_by) == SHIPPED and name not in COMPARED:
        label = name
        ship(name, learners[WAYS], configs[WAYS])
    rows = measured(learners, name, split_by)
    command = f"python tools/pretrain_emoji.py {name} --split-by {split_by} --seed {seed}"
    about = {"command": command, "split": "test", "tasks": TASKS, "seed": 1}
    about["trained"] = configs[WAYS]
    file = ROOT / "results" / "emoji" / f"{label}.json"
    write_result(file, config=about, values={"rows": rows, **values})


if __name__ == "__main__":
    main()
