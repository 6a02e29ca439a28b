"""Contract tests for methods, shipped with the library.

A contract is what every method of a kind must do whatever its mathematics: a layer keeps dtype and device, runs under
``vmap``, ``torch.compile`` and autocast, resumes from its saved state bit for bit; an optimizer decreases a convex
loss, respects parameter groups and closures; everything refuses bad arguments by name. One table
(:mod:`normviz.testing.table`) has a row per method, and the row drives all checks of its kind.

How to add a method
-------------------
1. **The method.** One file in its topic package, named by the field's term: ``normviz/norms/my_norm.py``. Module
   docstring: title, authors, arXiv id, what is followed where paper and code differ, equation -> code. Torch only; no
   branching on tensor values in forward; arguments checked with :mod:`normviz.validation`.
2. **The export.** Add its public names to the topic's ``__init__.py`` (imports or ``_HOME``, and ``__all__``).
3. **The catalog.** Name it in its paper's entry in ``normviz/catalog.py``. From now on the contract tests fail until
   it has a row.
4. **The row.** Add it to ``normviz/testing/rows/<topic>.py`` (a new subject: a new file there with its ``ROWS``, which
   is found by itself). Pick the kind: :class:`LayerContract` (any ``nn.Module``), :class:`OptimizerContract`,
   :class:`SchedulerContract`, :class:`FunctionContract`, :class:`ObjectContract` (anything else with
   ``state_dict``/``load_state_dict``)::

       LayerContract(
           method="normviz.norms.MyNorm",
           make=partial(norms.MyNorm, num_features=6),     # called with more options: make(eps=-1.0)
           inputs=lambda: (torch.randn(4, 5, 6),),          # of one forward; tiny
           bad=[Bad({"num_features": 0}), Bad({"eps": -1.0}),
                Bad(inputs=lambda: (torch.zeros(4, 7),), names="x")],
       )

   A check that cannot apply is named with its reason: ``skip={"vmap": "the number of steps depends on the data"}``.
   A second setting worth testing is a second row with a ``variant``.
5. **Run it.** ``pytest tests/test_contracts.py -k MyNorm``: one test per check. Keep a row's checks under a second or
   two together (``--durations=10``); the compiled one costs most.
6. **Its own mathematics.** ``tests/<topic>/test_my_norm.py`` has what no contract can know: equality with an
   independent NumPy derivation (for optimizers :func:`assert_step_matches`), invariances, limits, the paper's special
   cases. A contract passes for a method that is wrong in a consistent way.

Nothing here needs pytest, or a method of this library:

    >>> import torch
    >>> class Centre(torch.nn.Module):
    ...     def forward(self, x):
    ...         return x - x.mean(-1, keepdim=True)
    >>> contract = LayerContract(method="mine.Centre", make=Centre, inputs=lambda: (torch.randn(4, 6),))
    >>> for name in ("float32", "device", "resume", "vmap"):
    ...     contract.checks()[name]()

Every check is also a plain function; all raise AssertionError with a message that says what differs.
"""

from normviz.testing.assertions import (
    Bad,
    assert_bad_arguments_named,
    assert_deepcopy_and_pickle,
    assert_numbers_checked,
    assert_resumes,
)
from normviz.testing.compiled_optimizers import assert_compiles_once
from normviz.testing.contracts import (
    Contract,
    FunctionContract,
    LayerContract,
    ObjectContract,
    OptimizerContract,
    SchedulerContract,
)
from normviz.testing.layers import (
    AsModule,
    assert_autocast,
    assert_compiled_equals_eager,
    assert_device_kept,
    assert_dtype_kept,
    assert_eval_is_still,
    assert_vmap_equals_loop,
)
from normviz.testing.logs import log_of, log_of_rows, log_of_series, merged
from normviz.testing.optimizers import (
    Training,
    assert_batched_equals_one_by_one,
    assert_closure,
    assert_decreases_convex,
    assert_follows_scheduler,
    assert_gradients_untouched,
    assert_maximize_climbs,
    assert_maximize_is_checked,
    assert_missing_gradients_skipped,
    assert_optimizer_dtype_kept,
    assert_param_groups,
    assert_sparse_and_complex_refused,
    assert_step_ignores_autocast,
    assert_step_matches,
    assert_tensor_rate,
)
from normviz.testing.schedulers import Scheduled, assert_rates_reach_the_optimizer

__all__ = [
    "AsModule",
    "Bad",
    "Contract",
    "FunctionContract",
    "LayerContract",
    "ObjectContract",
    "OptimizerContract",
    "Scheduled",
    "SchedulerContract",
    "Training",
    "assert_autocast",
    "assert_bad_arguments_named",
    "assert_batched_equals_one_by_one",
    "assert_closure",
    "assert_compiled_equals_eager",
    "assert_compiles_once",
    "assert_decreases_convex",
    "assert_deepcopy_and_pickle",
    "assert_device_kept",
    "assert_dtype_kept",
    "assert_eval_is_still",
    "assert_follows_scheduler",
    "assert_gradients_untouched",
    "assert_maximize_climbs",
    "assert_maximize_is_checked",
    "assert_missing_gradients_skipped",
    "assert_numbers_checked",
    "assert_optimizer_dtype_kept",
    "assert_param_groups",
    "assert_rates_reach_the_optimizer",
    "assert_resumes",
    "assert_sparse_and_complex_refused",
    "assert_step_ignores_autocast",
    "assert_step_matches",
    "assert_tensor_rate",
    "assert_vmap_equals_loop",
    "log_of",
    "log_of_rows",
    "log_of_series",
    "merged",
]
