"""What the commands of the command line do; cli.py says how they are spelled."""

from __future__ import annotations

import inspect
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from metalearn_tut import claims, pretrained, runs, saliency, tasks
from metalearn_tut.claims.report import criteria
from metalearn_tut.claims.report import reproduce as decide
from metalearn_tut.cli.checks import (
    check_export,
    check_file,
    check_folder,
    check_new_run,
    check_positive,
    check_root,
    device_of,
    given,
)
from metalearn_tut.cli.launch import MEMORY, launch
from metalearn_tut.cli.options import expanded
from metalearn_tut.deployment.network import export_onnx
from metalearn_tut.evaluation import cost
from metalearn_tut.evaluation.accuracy import evaluate as measure
from metalearn_tut.evaluation.accuracy import interval
from metalearn_tut.federated import Federation
from metalearn_tut.federated.outcome import unanswered
from metalearn_tut.federated.training import federated_train
from metalearn_tut.files import provenance
from metalearn_tut.files.tensor_file import read_tensors
from metalearn_tut.gating import MetaGater
from metalearn_tut.gating.evaluation import Watched, is_gated
from metalearn_tut.learners.learner import Learner
from metalearn_tut.learners.maml import MAML
from metalearn_tut.learners.protonet import ProtoNet
from metalearn_tut.learners.state import state_of
from metalearn_tut.tasks import TaskSampler
from metalearn_tut.tasks.emoji.index import notices
from metalearn_tut.training import checkpoint
from metalearn_tut.training.loop import History, meta_train

_SPLITS = ("train", "validation", "test")
_OF_INNER_LOOP = {
    "inner_lr": None,
    "inner_steps": None,
    "rate_mode": None,
    "zero_head": False,
    "multi_step_loss": 0.0,
    "engine": "functional",
}
_WITHOUT_USE = {
    "protonet": tuple(_OF_INNER_LOOP),
    "reptile": ("rate_mode", "multi_step_loss", "engine"),
    "metasgd": ("rate_mode",),
    "tsmd": ("multi_step_loss", "engine"),
}
_OF_FOLDER = ("size", "min_images")
_OF_GATES = ("gate_lr", "sparsity", "target", "warmup", "gate_outer_lr")
_OF_TEACHER = ("teacher", "fixed_teacher", "kd_weight", "temperature", "teacher_outer_lr")


def data(o: SimpleNamespace, arguments: Sequence[str]) -> None:
    """Prepare a data set and print a line for each part of it."""
    check_root(o.name, o.root, downloads=o.download)
    places: dict[str, Any] = {} if o.name in ("emoji", "glyphs") else {"root": o.root}
    if o.name == "image_folder" and o.root is None:
        raise ValueError("image_folder needs --root: the folder of your pictures")
    if o.name in ("omniglot", "cifar10"):
        places["download"] = o.download
    elif o.download:
        raise ValueError(f"--download: {o.name} cannot be downloaded; see its --help")
    parts = [{"split": split} for split in _SPLITS]
    if o.name == "omniglot":
        parts += [{"split": "train", "background": small} for small in ("small1", "small2")]
    absent = []
    for part in parts:
        try:
            found = _summary(getattr(tasks, o.name)(**part, **places))
        except FileNotFoundError as error:
            absent.append(error)
            found = "absent"
        print(f"{' '.join(part.values())}: {found}", flush=True)
    if len(absent) == len(parts):
        raise absent[0]
    if o.name == "emoji":
        print("\n".join(notices()))


def _summary(source: tasks.ClassSource | tasks.LabelledImages) -> str:
    if isinstance(source, tasks.LabelledImages):
        shape = "x".join(map(str, source.images.shape[1:]))
        return f"{len(source.images):,} images {shape} in {len(source.class_names)} classes"
    groups = f", {len(set(source.groups))} groups" if source.groups else ""
    return f"{source!r}{groups}"


def train(o: SimpleNamespace, arguments: Sequence[str]) -> int:
    """Meta-train a learner, in as many processes as asked for."""
    if o.processes > 1 and "WORLD_SIZE" not in os.environ:
        return launch(o.processes, arguments)
    _set_threads(o.threads)
    check_root(o.data, o.root)
    check_new_run(o.out, checkpoint.PRUNED)
    data = _data_config(o)
    source = runs.build_source(data, "train", o.root)
    config = {
        "data": data,
        "tasks": {"ways": o.ways, "shots": o.shots, "queries": o.queries, "seed": o.seed},
        "model": _model_config(o, source),
        "algorithm": _algorithm_config(o),
    }
    torch.manual_seed(o.seed)
    learner = runs.build_learner(config, device_of(o.device))
    sampler = source.sampler(**config["tasks"])
    if first_process := os.environ.get("RANK", "0") == "0":
        count = sum(p.numel() for p in learner.meta_parameters().values())
        print(f"{o.algorithm} with {count:,} parameters to train on {sampler!r}", flush=True)
    history = meta_train(
        learner,
        sampler,
        validation=_validation(o, config) if o.validate else None,
        out=o.out,
        config=config,
        **{name: getattr(o, name) for name in _OF_TRAINING} | {"outer_lr": _outer_lr(o)},
    )
    if first_process:
        print(_outcome(o.out, history))
    return 0


_OF_TRAINING = (
    "steps",
    "tasks_per_step",
    "schedule",
    "clip",
    "validate_every",
    "validation_tasks",
    "resume",
    "save_every",
)


def _data_config(o: SimpleNamespace) -> dict[str, Any]:
    """The data's name and those options that are not as usual."""
    config: dict[str, Any] = {"name": o.data}
    for name in _OF_FOLDER:
        if (value := getattr(o, name, None)) is not None:
            if o.data != "image_folder":
                given = f"--{name.replace('_', '-')} {value}"
                raise ValueError(f"{given}: only image_folder has it, not {o.data}")
            config[name] = value
    config |= {name: True for name in ("rotations", "within_group") if getattr(o, name)}
    if o.background != "full":
        if o.data != "omniglot":
            raise ValueError(f"--background {o.background}: only omniglot has it, not {o.data}")
        config["background"] = o.background
    return config


def _model_config(o: SimpleNamespace, source: tasks.ClassSource) -> dict[str, Any]:
    channels, size = source.images.shape[1:3]
    return {
        "name": "Conv4",
        "in_channels": channels,
        "ways": o.ways,
        "width": o.width,
        "norm": o.norm,
        "image_size": size,
    }


def _algorithm_config(o: SimpleNamespace) -> dict[str, Any]:
    useless = _WITHOUT_USE.get(o.algorithm, ())
    for name in useless:
        if getattr(o, name) != _OF_INNER_LOOP[name]:
            raise ValueError(f"--{name.replace('_', '-')}: {o.algorithm} has no use for it")
    usual = {"inner_lr": 0.1 if o.algorithm == "metasgd" else 0.4, "inner_steps": 1}
    asked = {name: getattr(o, name) for name in _OF_INNER_LOOP if name not in useless}
    settings = {n: usual.get(n, "fixed") if v is None else v for n, v in asked.items()}
    if o.algorithm == "tsmd":
        return {"name": "tsmd", "student": settings, **_distillation_config(o)}
    if name := next((n for n in _OF_TEACHER if given(getattr(o, n))), None):
        raise ValueError(f"--{name.replace('_', '-')}: {o.algorithm} has no use for it")
    return {"name": o.algorithm, **settings}


def _distillation_config(o: SimpleNamespace) -> dict[str, Any]:
    """The teacher, and how it teaches as far as that is not as usual."""
    if o.teacher is None:
        raise ValueError("--algorithm tsmd needs --teacher: a run that was trained before")
    if o.fixed_teacher and o.teacher_outer_lr is not None:
        raise ValueError("--teacher-outer-lr: a fixed teacher has no use for it")
    path = _path_of(o.teacher).resolve()
    known = {n: v for n, v in runs.load_config(path).items() if n in ("model", "algorithm")}
    named = ("kd_weight", "temperature", "fixed_teacher")
    settings = {n: getattr(o, n) for n in named if given(getattr(o, n))}
    return {"teacher": {**known, "run": str(path)}, **settings}


def _outer_lr(o: SimpleNamespace) -> float | dict[str, float]:
    if o.teacher_outer_lr is None:
        return o.outer_lr
    return {"teacher": o.teacher_outer_lr, "student": o.outer_lr}


def _validation(o: SimpleNamespace, config: dict[str, Any]) -> TaskSampler:
    """Tasks of the validation classes as they are, whatever training makes of its own."""
    plain = {n: v for n, v in config["data"].items() if n not in ("rotations", "background")}
    try:
        source = runs.build_source(plain, "validation", o.root)
    except FileNotFoundError as error:
        raise ValueError(f"no validation data (--no-validate does without): {error}") from error
    return source.sampler(**config["tasks"])


def _outcome(out: Path, history: History) -> str:
    if not history.validation:
        return f"{out / checkpoint.LAST}: {len(history.loss)} steps"
    best = history.best()
    return (
        f"{out / checkpoint.BEST}: step {best['step']}, validation accuracy "
        f"{best['mean']:.4f} ± {best['half_width']:.4f}"
    )


def federate(o: SimpleNamespace, arguments: Sequence[str]) -> None:
    """Meta-train a learner on nodes with different data, in rounds."""
    _set_threads(o.threads)
    check_root(o.data, o.root)
    check_new_run(o.out, checkpoint.PRUNED)
    o = SimpleNamespace(**vars(o), ways=o.classes_per_node, background="full")
    data = _data_config(o)
    model = _model_config(o, runs.build_source(data, "train", o.root))
    config = {
        "data": data,
        "tasks": {"ways": o.ways, "shots": o.shots, "queries": o.queries, "seed": o.seed},
        "model": model | ({"name": "ChannelGatedConv4"} if o.algorithm == "metagater" else {}),
        "algorithm": _federated_config(o),
        "federation": {name: getattr(o, name) for name in _OF_FEDERATION},
    }
    if o.algorithm == "metagater" and o.gate_outer_lr is None:
        config["federation"] |= _usual(Federation, "gate_outer_lr")
    federation = runs.build_federation(config, o.root, device_of(o.device))
    count = sum(p.numel() for p in federation.learner.meta_parameters().values())
    print(f"{o.algorithm} with {count:,} parameters to train on {o.nodes} nodes", flush=True)
    options = {"config": config, "resume": o.resume, "save_every": o.save_every}
    records = federated_train(federation, o.out, **options)
    down, up = (sum(r[n] for r in records) / 1e6 for n in ("bytes_down", "bytes_up"))
    missing, last = sum(len(r["left_out"]) for r in records), unanswered(records)
    print(
        f"{o.out / checkpoint.LAST}: {len(records)} rounds, {down:,.1f} MB to the nodes and "
        f"{up:,.1f} MB back{f', {missing} replies left out' if missing else ''}"
        f"{f'; nobody answered in the last {last}' if last else ''}"
    )


_OF_FEDERATION = (
    *("nodes", "rounds", "fraction", "local_steps", "tasks_per_step"),
    *("outer_lr", "gate_outer_lr"),
)


def _usual(maker: Callable[..., Any], *names: str) -> dict[str, Any]:
    """What arguments are unless somebody says otherwise."""
    known = inspect.signature(maker).parameters
    return {name: known[name].default for name in names}


def _federated_config(o: SimpleNamespace) -> dict[str, Any]:
    given = {name: getattr(o, name) for name in _OF_GATES if getattr(o, name) is not None}
    config = {"name": o.algorithm, "inner_lr": o.inner_lr}
    if o.algorithm == "metagater":
        given.pop("gate_outer_lr", None)  # of the federation
        return {**config, "update": o.update, **_usual(MetaGater, "sparsity", "target"), **given}
    if o.update == "difference" or (o.update == "first" and o.algorithm == "fedavg"):
        raise ValueError(f"--update {o.update}: {o.algorithm} has no use for it")
    if given:
        name = min(given).replace("_", "-")
        raise ValueError(f"--{name}: {o.algorithm} has no use for it")
    return config | ({"first_order": True} if o.update == "first" else {})


def evaluate(o: SimpleNamespace, arguments: Sequence[str]) -> None:
    """Measure a trained learner, print the result and write it to a file."""
    _set_threads(o.threads)
    if o.json:
        check_file("--json", o.json)
    path = _path_of(o.run)
    config = runs.load_config(path)
    learner = runs.load_learner(path, device_of(o.device))
    if o.norm:
        learner.model.norm = o.norm
    if o.steps is not None and not hasattr(learner, "inner_steps"):
        raise ValueError(f"--steps {o.steps}: {config['algorithm']['name']} takes no inner steps")
    sampler = _runs(o, config) if o.data == "omniglot_runs" else _sampler(o, config)
    _check_ways(learner, sampler[0].ways)
    n_tasks = min(o.tasks, len(sampler)) if hasattr(sampler, "__len__") else o.tasks
    learner = Watched(learner) if is_gated(learner) else learner
    result = measure(learner, sampler, n_tasks, steps=o.steps, progress=True)
    print(f"{result}\n{result.sampler}")
    values = result.to_dict()
    if is_gated(learner):
        mean, half = interval(torch.tensor(learner.shares, dtype=torch.float64))
        values["active_macs"] = {"mean": mean, "half_width": half}
        print(f"{mean:.4f} ± {half:.4f} of the multiply-adds are done for an image, as deployed")
    if o.json:
        command = shlex.join(["metalearn-tut", *arguments])
        provenance.write_result(
            o.json, config={"command": command, "trained": config}, values=values
        )


def _sampler(o: SimpleNamespace, config: dict[str, Any]) -> TaskSampler:
    trained, of_training = config.get("tasks", {}), config.get("data", {})
    name = o.data or of_training.get("name")
    check_root(name, o.root)
    data = {"name": name, "rotations": o.rotations, "within_group": o.within_group}
    if name in ("omniglot", "mini_imagenet", "image_folder") and "image_size" in config["model"]:
        data["size"] = config["model"]["image_size"]
    if name == "image_folder":
        data["channels"] = config["model"]["in_channels"]
        data |= {n: of_training[n] for n in ("min_images", "groups") if n in of_training}
    return runs.build_source(data, o.split, o.root).sampler(
        o.ways or trained.get("ways", 5), o.shots or trained.get("shots", 1), o.queries, o.seed
    )


def _runs(o: SimpleNamespace, config: dict[str, Any]) -> TaskSampler:
    if o.root is None:
        raise ValueError("--data omniglot_runs needs --root: the folder or zip of the runs")
    check_root(o.data, o.root)
    return tasks.omniglot_runs(o.root, size=config["model"].get("image_size", 28))


def _check_ways(learner: Learner, ways: int) -> None:
    trained = learner.model.ways
    parts = [getattr(learner, name, learner) for name in ("teacher", "student")]
    free = (isinstance(p, ProtoNet) or getattr(p, "zero_head", False) for p in parts)
    if ways != trained and not all(free):
        raise ValueError(
            f"tasks have {ways} ways, and the learner a head trained for {trained}: other ways "
            "need a learner trained with --zero-head, or protonet"
        )


def prune(o: SimpleNamespace, arguments: Sequence[str]) -> None:
    """Prune a trained learner in rounds, train it after each, write what is left."""
    _set_threads(o.threads)
    check_new_run(o.out, checkpoint.BEST, checkpoint.LAST)
    if (o.out / checkpoint.PRUNED).exists() and not o.resume:
        raise checkpoint.holds_a_run(o.out)
    check_positive("--step", o.step)
    check_positive("--outer-lr", o.outer_lr)
    path = _path_of(o.run)
    config, learner = runs.load_config(path), runs.load_learner(path, device_of(o.device))
    if missing := sorted({"data", "tasks"} - config.keys()):
        raise ValueError(f"{path} does not say what {missing[0]} it was trained with")
    if not isinstance(learner, MAML):
        raise ValueError(f"{path} is a {type(learner).__name__}, which is not pruned by masks")
    check_root(config["data"].get("name"), o.root)
    source = runs.build_source(config["data"], "train", o.root)
    training = {n: getattr(o, n) for n in ("steps", "tasks_per_step", "outer_lr")}
    pruning = {n: getattr(o, n) for n in ("score", "allocation", "seed")} | {"n_tasks": o.tasks}
    now = saliency.kept_fraction(saliency.full_masks(learner))
    pruning |= {"schedule": saliency.schedule_to(o.keep, o.step, now), "spare": o.spare or []}

    def sampler(number: int) -> TaskSampler:
        return source.sampler(**{**config["tasks"], "seed": o.seed + number})

    def retrain(learner: Learner, number: int) -> None:
        folder = o.out / f"trained_{number:02d}"
        meta_train(learner, sampler(number), out=folder, resume=True, config=config, **training)

    masks, _ = saliency.anp_prune(
        learner,
        sampler(0),
        retrain=retrain if o.steps else None,
        note={"training": training, "weights": state_of(learner)},
        out=o.out / "rounds",
        resume=o.resume,
        **pruning,
    )
    file = o.out / checkpoint.PRUNED
    config = {**config, "pruning": {**pruning, "training": training}}
    saliency.save_sparse(file, learner, config=config)
    model, shape = learner.model, source.images.shape[1:]
    print(
        f"{file}: {cost.parameters(model, masks):,} of {cost.parameters(model):,} parameters, "
        f"{cost.macs(model, shape, masks):,} of {cost.macs(model, shape):,} multiply-adds, "
        f"{file.stat().st_size:,} bytes"
    )


def export(o: SimpleNamespace, arguments: Sequence[str]) -> None:
    """Write a run's weights and configuration, or the network adapted to one task."""
    check_export(o)
    path = _path_of(o.run)
    if o.file.suffix != ".onnx":
        _export_weights(path, o.file)
        print(f"{o.file}: {o.file.stat().st_size:,} bytes")
        return
    learner = runs.load_learner(path)
    usual = {"queries": 1, "rotations": False, "within_group": False}
    sampler = _sampler(SimpleNamespace(**vars(o), **usual), runs.load_config(path))
    task = sampler[o.task]
    _check_ways(learner, task.ways)
    network = learner.adapt(task.support_x, task.support_y).deploy()
    exported = export_onnx(network, o.file, task.support_x.shape[1:])
    print(f"{exported!r}\ntask {o.task} of {sampler!r}")


def _export_weights(run: Path, file: Path) -> None:
    if "sparse" not in read_tensors(run)[1]:
        checkpoint.export(run, file)
        return
    pruned = saliency.read_sparse(run)  # which never had what only training needs
    saliency.save_sparse(file, pruned.params, pruned.masks, pruned.config)


def reproduce(o: SimpleNamespace, arguments: Sequence[str]) -> int:
    """Run the jobs of one study or of all, and print what they decide."""
    if (o.study is not None) + o.all + o.list != 1:
        raise ValueError(f"name one study ({', '.join(claims.STUDIES)}), or give --all or --list")
    if o.list:
        print("\n\n".join(criteria(claims.load(name)) for name in claims.STUDIES))
        return 0
    check_folder("--out", o.out)
    check_folder("--results", o.results)
    names = claims.STUDIES if o.all else (o.study,)
    environment = {n: v for n, v in MEMORY.items() if n not in os.environ}
    options = {n: getattr(o, n) for n in ("quick", "out", "results", "processes", "threads")}
    ended = [decide(claims.load(n), environment=environment, **options) for n in names]
    return 0 if all(ended) else 1


def _path_of(run: str) -> Path:
    """The checkpoint file that a run's name stands for."""
    kind, _, name = run.partition(":")
    return pretrained.path(name) if kind == "pretrained" else checkpoint.find(expanded(run))


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
