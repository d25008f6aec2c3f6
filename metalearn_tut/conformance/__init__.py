"""Floor 8: is a meta-gradient right? Cases with right values, for any library and your own code.

A learner is judged as one function. This is a whole one, and what it is given and returns::

    def meta_gradient(module, loss, tasks, *, inner_lr, inner_steps):
        # the mean over the tasks of d(query loss)/d(start): a tensor for each parameter's name
        module.zero_grad()
        for task in tasks:
            params = dict(module.named_parameters())
            for _ in range(inner_steps):
                value = loss(functional_call(module, params, task.support_x), task.support_y)
                slopes = torch.autograd.grad(value, params.values(), create_graph=True)
                params = {n: p - inner_lr * g for (n, p), g in zip(params.items(), slopes)}
            outputs = functional_call(module, params, task.query_x)
            (loss(outputs, task.query_y) / len(tasks)).backward()
        return {name: p.grad for name, p in module.named_parameters()}

``python -m metalearn_tut.conformance my_module:meta_gradient`` judges it in every case: right;
refused, by an error that names what is in the way; **wrong**, without any error; or a crash. A
gradient that is None or missing counts as zero, and frozen parameters need none.

A keyword beyond these two says what else the function offers; a case that needs one which it does
not take is "not offered", and so is one for which it returns ``NotImplemented``:

* ``first_order``: True for FOMAML.
* ``rates``: a dictionary of parameter name to its learned rate, a scalar or one for each step
  ``[inner_steps]``, in place of ``inner_lr``; their gradients are returned as ``rates.NAME``.
* ``optimizer``: ``"momentum"`` or ``"adam"`` in the inner loop, as ``torch.optim`` has them
  (``"adam_eps"`` with a large eps; :data:`~metalearn_tut.conformance.truth.OPTIMIZERS`).
* ``prox_weight``: strength λ of a pull ``λ/2 |p - start|²`` in the inner loop; the steps are
  enough to reach the minimum, so that implicit gradients are right as well.
"""

from metalearn_tut.conformance.case import Case
from metalearn_tut.conformance.cases import CASES, GROUPS
from metalearn_tut.conformance.judge import KINDS, MetaGradient, Verdict, judge, verdicts
from metalearn_tut.conformance.truth import OPTIMIZERS, right_value

__all__ = [
    "CASES",
    "GROUPS",
    "KINDS",
    "OPTIMIZERS",
    "Case",
    "MetaGradient",
    "Verdict",
    "judge",
    "right_value",
    "verdicts",
]
