"""A learner that is wrong is found out, and one that is right is not accused."""

import math
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import conformance_cases as plants
import pytest
import torch
from conformance_cases import BY_NAME, Plain

from metalearn_tut import conformance
from metalearn_tut.conformance import CASES, Case, judge, ours, right_value
from metalearn_tut.conformance.command import main

ROOT = Path(__file__).parents[2]
named = {"ids": lambda case: case.name}
FIRST_ORDER_IS_RIGHT = {"first order", "no inner step", "implicit, at the minimum"}


# The package's engines


@pytest.mark.parametrize("case", CASES, **named)
def test_our_first_engine_is_right_refuses_or_does_not_offer(case):
    verdict = judge(case, ours.functional)
    assert verdict.kind in ("right", "refused", "not offered"), verdict


@pytest.mark.slow(quick=4)
@pytest.mark.parametrize("case", CASES, **named)
@pytest.mark.parametrize("engine", [e for e in ours.ENGINES if e != "functional"])
def test_our_other_engines_are_right_refuse_or_do_not_offer(engine, case):
    verdict = judge(case, ours.ENGINES[engine])
    assert verdict.kind in ("right", "refused", "not offered"), verdict


def test_what_our_first_engine_refuses():
    kinds = {case.name: judge(case, ours.functional).kind for case in CASES}
    refused = [name for name, kind in kinds.items() if kind == "refused"]
    assert refused == [
        "weight_norm (parametrization)",
        "weight_norm (hook)",
        "spectral_norm, training",
        "nn.MultiheadAttention",
        "nn.MultiheadAttention with weights",
        "bag of words (EmbeddingBag)",
        "torch.cdist",
        "tasks of unequal size",
    ]


# Planted errors


@pytest.mark.parametrize("case", [c for c in CASES if not c.options and c.inner_steps], **named)
def test_first_order_is_caught_in_every_case(case):
    """Sensitivity: what is second order in a case weighs a hundred times its tolerance."""
    verdict = judge(case, plants.FirstOrder())
    if judge(case, Plain()).kind in ("refused", "crash"):
        pytest.skip("has no second derivative at all, or leaves functional_call's tensors behind")
    least = 3 * case.tolerance if case.tolerance > 1e-3 else 100 * case.tolerance
    assert verdict.kind == "wrong" and verdict.error > least


PLANTS = [
    (plants.SecondStepFirstOrder, "three linear layers"),
    (plants.OneStepTooMany, "no inner step"),
    (plants.SumOfTasks, "cross entropy"),
    (plants.WithoutHooks, "forward hook"),
    (plants.WithoutHooks, "forward pre-hook"),
    (plants.WithoutHooks, "mask by nn.utils.prune"),
    (plants.OfTheStart, "layers called from a plain list"),
    (plants.Untied, "one parameter in two layers"),
    (plants.ZeroIsNoGradient, "a layer that only the query uses"),
    (plants.ThroughFloat16, "three linear layers"),
    (plants.LeftChanged, "three linear layers"),
    (plants.AnotherTensor, "three linear layers"),
    (plants.NotANumber, "three linear layers"),
    (Plain, "weight_norm (parametrization)"),
    (Plain, "weight_norm (hook)"),
    (Plain, "spectral_norm, training"),
]


@pytest.mark.parametrize("plant, name", PLANTS)
def test_a_planted_error_is_caught(plant, name):
    assert judge(BY_NAME[name], plant()).kind == "wrong"


@pytest.mark.parametrize("detach, eps_inside", [(True, False), (False, True)])
def test_errors_in_the_inner_optimizer_are_caught(detach, eps_inside):
    learner = plants.Optimized(detach, eps_inside)
    found = {name: judge(BY_NAME[name], learner).kind for name in BY_NAME if "inner " in name[:6]}
    adam = [found["inner Adam"], found["inner Adam, eps of 1/1024"]]
    if detach:
        assert found["inner SGD with momentum"] == "wrong" and adam == ["wrong"] * 2
    else:
        assert found["inner SGD with momentum"] == "right" and adam[1] == "wrong"


def with_rates(module, loss, tasks, *, inner_lr, inner_steps, rates):
    found = ours.functional(
        module, loss, tasks, inner_lr=inner_lr, inner_steps=inner_steps, rates=rates
    )
    return {n: torch.zeros_like(g) if n.startswith("rates.") else g for n, g in found.items()}


def test_rates_without_a_gradient_are_caught():
    case = BY_NAME["learned rates, one a parameter and step"]
    assert judge(case, ours.functional).kind == "right"
    assert judge(case, with_rates).kind == "wrong"


def test_unrolling_too_few_steps_is_caught_by_the_implicit_case():
    case = BY_NAME["implicit, at the minimum"]

    def too_few(module, loss, tasks, *, inner_lr, inner_steps, prox_weight):
        settings = {"inner_lr": inner_lr, "inner_steps": 3, "prox_weight": prox_weight}
        return ours.implicit(module, loss, tasks, **settings)

    assert judge(case, ours.implicit).kind == "right"
    assert judge(case, too_few).kind == "wrong"


# What the judge says


CASE = BY_NAME["three linear layers"]


def answering(value):
    return lambda module, loss, tasks, *, inner_lr, inner_steps: value


def raising(error):
    def learner(module, loss, tasks, *, inner_lr, inner_steps):
        raise error

    return learner


@pytest.mark.parametrize(
    "error, kind",
    [
        (ValueError("has no batched form of LSTM; use engine='functional'"), "refused"),
        (RuntimeError("vmap: data-dependent control flow is not supported"), "refused"),
        (
            NotImplementedError("the derivative for '_cdist_backward' is not implemented."),
            "refused",
        ),
        (RuntimeError("a second derivative of BatchNorm is wrong"), "refused"),  # by the case
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), "crash"),
        (KeyError("weight"), "crash"),
        (AssertionError(), "crash"),
    ],
)
def test_an_error_that_names_what_is_in_the_way_is_a_refusal(error, kind):
    verdict = judge(BY_NAME["batch norm, no statistics kept"], raising(error))
    assert verdict.kind == kind and verdict.error is None
    assert verdict.message.startswith(type(error).__name__)


def test_missing_gradients_are_zero():
    case = BY_NAME["a layer that nothing uses"]
    right = right_value(case)
    used = {n: g if n.startswith("used") else None for n, g in right.items()}
    assert judge(case, answering(used)).kind == "right"
    assert judge(case, answering({n: g for n, g in used.items() if g is not None})).error == 0
    assert judge(CASE, answering({})).error == pytest.approx(1)


def test_frozen_parameters_need_no_gradient():
    case = BY_NAME["a frozen layer"]
    assert not [n for n in right_value(case) if n.startswith("2.")]
    extra = right_value(case) | {"2.weight": torch.ones(3, 3)}
    assert judge(case, answering(extra)).kind == "right"


def test_nan_is_infinitely_wrong():
    verdict = judge(CASE, plants.NotANumber())
    assert verdict.kind == "wrong" and verdict.error == math.inf


def test_the_network_has_to_be_as_it_was():
    assert judge(CASE, plants.LeftChanged()).message == "leaves 0.weight changed"
    said = judge(CASE, plants.AnotherTensor()).message
    assert said == "leaves another tensor in place of 0.weight"


@pytest.mark.parametrize("learner", [Plain(), answering(NotImplemented)])
def test_not_offered(learner):
    assert judge(BY_NAME["first order"], learner).kind == "not offered"


def test_a_function_with_any_keywords_offers_all():
    def learner(module, loss, tasks, **options):
        assert options.pop("first_order", False)
        return ours.functional(module, loss, tasks, first_order=True, **options)

    assert judge(BY_NAME["first order"], learner).kind == "right"


@pytest.mark.parametrize(
    "value, said",
    [
        ([torch.ones(2)], r"must return a dictionary of name to gradient, got list in the case"),
        ({"0.weight": torch.ones(3)}, r"gradient of '0.weight' .* \[3, 3\], got \[3\] in the case"),
        ({"0.weight": 1.0}, r"gradient of '0.weight' must be a tensor of shape .*, got float"),
    ],
)
def test_an_answer_of_the_wrong_form_is_an_error_of_the_function(value, said):
    with pytest.raises((TypeError, ValueError), match=said):
        judge(CASE, answering(value))


def test_cases_say_how_much_they_ask():
    assert isinstance(CASE, Case) and CASE.tolerance == 1e-6
    assert {case.tolerance for case in CASES} == {1e-6, 1e-4, 1e-3, 0.05}


# The command


def on_disk(tmp_path, monkeypatch, source, name="my_module"):
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)


def documented():
    """The function in the room's docstring."""
    source = re.search(r"::\n\n(    def .*?)\n\n``python", conformance.__doc__, re.DOTALL)[1]
    imports = "import torch\nfrom torch.func import functional_call\n\n"
    return imports + textwrap.dedent(source)


def test_the_documented_function_can_be_judged(tmp_path, monkeypatch, capsys):
    on_disk(tmp_path, monkeypatch, documented())
    assert main(["my_module:meta_gradient", "--case", "linear layers"]) == 0
    assert capsys.readouterr().out.split() == ["three", "linear", "layers", "right", "1", "right"]


def test_a_wrong_one_ends_with_1_and_is_saved(tmp_path, monkeypatch, capsys):
    source = documented().replace("create_graph=True", "create_graph=False")
    on_disk(tmp_path, monkeypatch, source + "\n\nPACKAGES = ('torch', 'no-such-package')\n")
    said = ["my_module:meta_gradient", "--case", "inner step", "--save", "out/verdicts.json"]
    assert main(said) == 1
    out = capsys.readouterr().out
    assert re.search(r"^one inner step +WRONG by \d\.\de-\d\d$", out, re.MULTILINE)
    assert out.endswith("1 right, 2 wrong\n")
    kept = __import__("json").loads(Path("out/verdicts.json").read_text())
    assert kept["values"]["no inner step"]["kind"] == "right"
    assert kept["values"]["one inner step"]["error"] > 1e-3
    assert kept["config"]["packages"] == {"torch": torch.__version__, "no-such-package": "unknown"}


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "name a function as module:function, got ''"),
        (["my_module"], "name a function as module:function, got 'my_module'"),
        (["nowhere:f"], "the module 'nowhere' cannot be imported: No module named 'nowhere'"),
        (["my_module:f"], "'f' is not there in the module 'my_module'"),
        (["my_module:x"], "'x' is nothing that can be called in the module 'my_module'"),
        (["my_module:g", "--case", "zzz"], "no case has 'zzz' in its name: --list shows all"),
        (["my_module:g", "--case", "float32"], "must return a dictionary of name to gradient"),
        (["my_module:h", "--case", "float32"], "cannot be called as meta_gradient"),
    ],
)
def test_the_command_says_in_a_sentence_what_it_needs(
    arguments, said, tmp_path, monkeypatch, capsys
):
    source = "x = 1\ng = lambda module, loss, tasks, **options: 3\nh = lambda module: 3\n"
    on_disk(tmp_path, monkeypatch, source)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and len(error.splitlines()) == 1


def test_the_list_has_every_case(capsys):
    assert main(["--list"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {case.name}\n" in out for case in CASES)


def test_the_module_is_a_command():
    run = subprocess.run(
        [sys.executable, "-m", "metalearn_tut.conformance", "--list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "batch norm" in run.stdout
