"""An algorithm is one dataclass: its options, its checks, its configuration, its learner."""

import json
from dataclasses import MISSING, dataclass
from pathlib import Path

import pytest

from metalearn_tut.cli import parser
from metalearn_tut.runs import building as runs
from metalearn_tut.runs.algorithms import ALGORITHMS, FEDERATED, Algorithm, MAMLOptions, TSMDOptions
from metalearn_tut.runs.options import option, options_of

ROOT = Path(__file__).parents[2]
KNOWN = {**ALGORITHMS, **FEDERATED}
GATED = {"name": "ChannelGatedConv4", "in_channels": 1, "ways": 3, "width": 4, "image_size": 16}
PLAIN = {**GATED, "name": "Conv4"}
TEACHER = {"model": PLAIN, "algorithm": {"name": "maml"}}
NEEDED = {"tsmd": {"teacher": TEACHER}}


@pytest.mark.parametrize("name", KNOWN)
def test_what_a_run_keeps_is_what_its_learner_is_rebuilt_from(name):
    algorithm = KNOWN[name].of_options(NEEDED.get(name, {}))
    config = json.loads(json.dumps(algorithm.config()))
    assert config["name"] == name
    model = GATED if name == "metagater" else PLAIN
    whole = runs.build_learner({"model": model, "algorithm": config})
    bare = {"name": name, **NEEDED.get(name, {})}
    plain = runs.build_learner({"model": model, "algorithm": bare})
    assert type(whole) is type(plain)
    own = getattr(whole, "student", whole).settings()
    assert own == getattr(plain, "student", plain).settings()


@pytest.mark.parametrize("name", KNOWN)
def test_an_algorithm_takes_its_own_options_and_refuses_the_others(name):
    among = ALGORITHMS if name in ALGORITHMS else FEDERATED
    kind, needed = among[name], NEEDED.get(name, {})
    for other in {o for k in among.values() for o in options_of(k)} - set(needed):
        told = {**needed, other: 1.0}
        if other not in options_of(kind):
            flag = f"--{other.replace('_', '-')}"
            with pytest.raises(ValueError, match=f"^{flag}: {name} has no use for it$"):
                kind.of_options(told)
        elif not options_of(kind)[other].choices:
            made = kind.of_options(told)
            part = made if hasattr(made, other) else made.student
            assert getattr(part, other) == 1.0


def test_an_option_of_training_is_no_part_of_the_configuration():
    asked = {"teacher": TEACHER, "teacher_outer_lr": 0.5}
    algorithm = TSMDOptions.of_options(asked)
    assert "teacher_outer_lr" not in algorithm.config()
    assert algorithm.outer_rates(0.1) == {"outer_lr": {"teacher": 0.5, "student": 0.1}}
    assert MAMLOptions().outer_rates(0.1) == {"outer_lr": 0.1}


def stored():
    """Every configuration of a learner in the results, once."""

    def walk(value):
        if isinstance(value, dict):
            if isinstance(value.get("algorithm"), dict) and "model" in value:
                yield json.dumps({n: value[n] for n in ("model", "algorithm")}, sort_keys=True)
            value = list(value.values())
        for item in value if isinstance(value, list) else ():
            yield from walk(item)

    for path in (ROOT / "results").rglob("*.json"):
        yield from walk(json.loads(path.read_text("utf-8")))


def test_every_stored_configuration_still_makes_a_learner():
    found = sorted(set(stored()))
    assert found
    for config in map(json.loads, found):
        learner = runs.build_learner(config)
        rest = {n: v for n, v in config["algorithm"].items() if n != "name"}
        for name in rest.keys() & {"inner_lr", "inner_steps", "rate_mode", "zero_head"}:
            if hasattr(learner, name):
                assert getattr(learner, name) == rest[name]


@dataclass(frozen=True, kw_only=True)
class Nearest(Algorithm):
    """One more algorithm, all that has to be written."""

    name = "nearest"
    _made_by = "metalearn_tut.learners:ProtoNet"
    inner_lr: float = option(0.7, "How far.")
    neighbors: int = option(3, "How many.", min=1)


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A command that chooses one."""

    number: int = option(1, "A number.", max=5)
    algorithm: Algorithm = option("nearest", "How.", among={"nearest": Nearest, **ALGORITHMS})


def asked(monkeypatch, *words):
    """What the command was told, and what it printed."""
    told = []

    class Doing:
        """In place of the module of that name."""

        ask = staticmethod(lambda read, arguments: told.append(read))

    app = parser.typer.Typer(rich_markup_mode=None, add_completion=False)
    app.callback()(lambda: None)
    parser.add_command(app, Ask)
    monkeypatch.setattr(parser.importlib, "import_module", lambda name: Doing)
    app(["ask", *words], standalone_mode=False)
    return told


def test_a_new_algorithm_is_one_class(monkeypatch, capsys):
    assert asked(monkeypatch, "--neighbors", "2") == [Ask(algorithm=Nearest(neighbors=2))]
    config = {"name": "nearest", "inner_lr": 0.7, "neighbors": 2}
    assert Nearest(neighbors=2).config() == config
    (told,) = asked(monkeypatch, "--algorithm", "metasgd", "--number", "4")
    assert told == Ask(number=4, algorithm=ALGORITHMS["metasgd"]())
    with pytest.raises(ValueError, match=r"^--neighbors: maml has no use for it$"):
        asked(monkeypatch, "--algorithm", "maml", "--neighbors", "2")
    with pytest.raises(Exception, match="0 is not in the range x>=1"):
        asked(monkeypatch, "--neighbors", "0")
    capsys.readouterr()
    assert asked(monkeypatch, "--help") == []
    said = " ".join(capsys.readouterr().out.split())
    assert "How far. [default: 0.7; maml: 0.4; fomaml: 0.4;" in said
    assert "How many. [default: 3] [x>=1]" in said


@pytest.mark.parametrize("name", KNOWN)
def test_every_option_says_what_it_means_and_has_a_default(name):
    for told in options_of(KNOWN[name]).values():
        assert told.default is not MISSING and (told.help or told.choices), told.name
