"""What the optimizers that step in a singular basis share (Conda, GaLore, Fira).

All three look at a matrix gradient G (m, n) in a basis of singular vectors that is recomputed every T steps, run an
elementwise rule (Adam, RMSProp) there, and rotate the result back:

    side     basis                        project           project_back
    left     A (m, r)                     A^T G   (r, n)    A R
    right    B (r, n)  (rows: V^T)        G B^T   (m, r)    R B
    full     A (m, r) and B (r, n)        A^T G B^T (r, r)  A R B

Everything else is plain Adam (RMSProp) in the style of Hugging Face's AdamW, which differs from torch's: eps is
added before the bias correction, and the weight decay is applied after the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, ParamsT

from normviz.optim._coverage import refuse_model, warn_of_fallback
from normviz.optim._each import Each, Slots, each_of, one_by_one, parts
from normviz.optim._matrix import (
    MatrixBatch,
    at_least_float32,
    check_betas,
    check_maximize,
    check_rates,
    fused_adamw,
    matrix_batches,
    matrix_shape,
    tensors_of,
)
from normviz.optim._precision import full_precision
from normviz.optim._steps import Group, ascending, evaluate, rate_tensor, refuse_unusual, run_eagerly
from normviz.validation import check_integer

__all__ = [
    "BASIS_KEYS",
    "PROJ_TYPES",
    "AdamRule",
    "Basis",
    "ProjectedOptimizer",
    "SingularProjector",
    "Slots",
    "add_back",
    "add_each",
    "linear_weight_groups",
    "project",
    "project_back",
    "project_each",
    "projection_side",
    "singular_basis",
    "stacked",
    "unstacked",
]

PROJ_TYPES = ("std", "reverse_std", "left", "right", "full")

Basis = tuple[Tensor, ...]
"""(A,) on the left, (B,) on the right, (A, B) for "full"; each may carry leading batch axes."""

# Optimizer.load_state_dict rebuilds every iterable and garbles strings: one plain tensor per key, no side stored.
BASIS_KEYS = {"left": ("basis",), "right": ("basis",), "full": ("basis_left", "basis_right")}


CPU_BATCH = 2**16
"""Entries of one batch on the CPU: beyond, stacking the matrices costs more than batched products save."""

# -------------------------------------------------------------------------------------------- projection


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Matrices (m, n) as (k, m, n); a single one as it is."""
    return tensors[0] if len(tensors) == 1 else torch.stack(list(tensors))


def unstacked(X: Tensor) -> list[Tensor]:
    """The matrices of :func:`stacked`."""
    return [X] if X.ndim == 2 else list(X.unbind(0))


def projection_side(proj_type: str, m: int, n: int) -> str:
    """ "left", "right" or "full": which side of an (m, n) matrix ``proj_type`` projects.

    "std" takes the short side (right for m >= n), "reverse_std" the long one; the other three name the side.
    """
    if proj_type == "std":
        return "right" if m >= n else "left"
    if proj_type == "reverse_std":
        return "left" if m >= n else "right"
    return proj_type


def singular_basis(X: Tensor, side: str, rank: int | None = None, label: str = "the matrix") -> Basis:
    """The first ``rank`` singular vectors of X (m, n) on ``side``, in X's dtype; SVD in at least float32.

    Args:
        X: one matrix; the thin SVD is taken of X as it lies, because the signs of the vectors depend on it.
        side: "left" | "right" | "full".
        rank: number of vectors; None: all min(m, n).
        label: what X is called in the error.

    Raises:
        RuntimeError: X holds nan or inf. Tested here, because not every SVD backend notices.
    """
    if not bool(torch.isfinite(X).all()):
        raise RuntimeError(f"no singular basis: {label} holds nan or inf.")
    U, _, Vh = torch.linalg.svd(at_least_float32(X.detach()), full_matrices=False)
    # A slice would keep the whole U or V^T alive.
    A = U[:, :rank].to(X.dtype).clone(memory_format=torch.contiguous_format)  # (m, r)
    B = Vh[:rank].to(X.dtype).clone(memory_format=torch.contiguous_format)  # (r, n)
    return {"left": (A,), "right": (B,), "full": (A, B)}[side]


def project(G: Tensor, side: str, basis: Basis) -> Tensor:
    """Coordinates of G (..., m, n), up to one leading axis, in the basis: A^T G, G B^T or A^T G B^T."""
    product = torch.bmm if G.ndim == 3 else torch.mm
    with full_precision(G):
        if side == "left":
            return product(basis[0].mT, G)  # (..., r, n)
        if side == "right":
            return product(G, basis[0].mT)  # (..., m, r)
        A, B = basis
        return product(product(A.mT, G), B.mT)  # (..., r, r)


def project_back(R: Tensor, side: str, basis: Basis) -> Tensor:
    """The matrix (..., m, n), up to one leading axis, whose coordinates are R: A R, R B or A R B."""
    product = torch.bmm if R.ndim == 3 else torch.mm
    with full_precision(R):
        if side == "left":
            return product(basis[0], R)
        if side == "right":
            return product(R, basis[0])
        A, B = basis
        return product(product(A, R), B)


def add_back(
    X: Tensor, R: Tensor, side: str, basis: Basis, alpha: float, *, out: Tensor | None = None
) -> Tensor:
    """X + alpha project_back(R) for X (m, n) or (k, m, n), into ``out`` (may be X) if given."""
    add_product, product = (torch.baddbmm, torch.bmm) if X.ndim == 3 else (torch.addmm, torch.mm)
    with full_precision(X):
        if side == "left":
            return add_product(X, basis[0], R, alpha=alpha, out=out)
        left, right = (R, basis[0]) if side == "right" else (product(basis[0], R), basis[1])
        return add_product(X, left, right, alpha=alpha, out=out)


def project_each(each: Each, X: Sequence[Tensor]) -> list[Tensor]:
    """Coordinates of one matrix X for every parameter."""
    return [project(x, side, basis) for x, side, basis in zip(X, each.sides, each.bases, strict=True)]


def add_each(each: Each, R: Sequence[Tensor], alpha: float) -> None:
    """W <- W + alpha project_back(R) for every matrix."""
    for W, r, side, basis in zip(each.weights, R, each.sides, each.bases, strict=True):
        add_back(W, r, side, basis, alpha, out=W)


class SingularProjector:
    """Base of the projectors for one matrix: keeps a singular basis and decides when to recompute it.

    Attributes:
        side: "left", "right" or "full"; None before the first refresh.
        last_refresh: step of the last refresh; None before the first.
    """

    def __init__(self, update_proj_gap: int, proj_type: str, rank: int | None = None) -> None:
        self.update_proj_gap = update_proj_gap
        self.proj_type = proj_type
        self.rank = rank
        self.side: str | None = None
        self.last_refresh: int | None = None
        self._basis: Basis | None = None

    @property
    def basis(self) -> Tensor | tuple[Tensor, Tensor] | None:
        """U (m, r) on the left, V^T (r, n) on the right, both for "full"; None before the first refresh."""
        if self._basis is None:
            return None
        return self._basis[0] if len(self._basis) == 1 else (self._basis[0], self._basis[1])

    def state_dict(self) -> dict[str, Any]:
        """Side, basis and step of the last refresh, as plain values."""
        return {"side": self.side, "basis": self.basis, "last_refresh": self.last_refresh}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        basis = state_dict["basis"]
        self.side = state_dict["side"]
        self.last_refresh = state_dict["last_refresh"]
        self._basis = None if basis is None else (basis,) if isinstance(basis, Tensor) else tuple(basis)

    def _refresh(self, name: str, X: Tensor, step: int) -> bool:
        """Recompute the basis from X (called ``name``) if ``step`` mod T is 0 or there is none; whether it did."""
        if X.ndim != 2:
            raise ValueError(f"{name} must have exactly 2 axes (m, n), got shape {tuple(X.shape)}.")
        check_integer("step", step, 0)
        if step % self.update_proj_gap and self._basis is not None:
            return False
        side = projection_side(self.proj_type, *X.shape)
        self._basis = singular_basis(X, side, self.rank, f"{name} of shape {tuple(X.shape)}")
        self.side = side
        self.last_refresh = step
        return True

    def _current(self) -> tuple[str, Basis]:
        """Side and basis; RuntimeError before the first refresh."""
        if self._basis is None or self.side is None:
            raise RuntimeError(
                "the projector has no basis yet: it is computed from the first matrix at a step."
            )
        return self.side, self._basis


# ------------------------------------------------------------------------------------------------ groups


def linear_weight_groups(
    model: nn.Module, targets: Iterable[str] | None, options: Mapping[str, Any]
) -> list[Group]:
    """``[projected, plain]``: chosen nn.Linear weights with ``options``, every other trainable parameter.

    Args:
        model: any module; shared parameters are taken once, frozen ones left out.
        targets: words; a Linear is chosen if its module name contains one of them (case matters). None: every
            Linear except the last of ``named_modules()``, which is the output head of most models.
        options: what the projected group carries besides ``params``.

    Returns:
        Two groups, or only the plain one if no weight is chosen.

    Raises:
        ValueError: ``targets`` is a single string or holds something else than strings.
    """
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if targets is None:
        head = linears[-1][1].weight if linears else None
        chosen = [module.weight for _, module in linears if module.weight is not head]
    else:
        words = [targets] if isinstance(targets, str) else list(targets)
        if isinstance(targets, str) or not all(isinstance(word, str) for word in words):
            raise ValueError(
                f"targets must be several words, such as ('attn', 'mlp'), or None, got {targets!r}."
            )
        chosen = [module.weight for name, module in linears if any(word in name for word in words)]
    # A parametrized layer computes its weight, which is then no parameter.
    projected = [w for w in dict.fromkeys(chosen) if isinstance(w, nn.Parameter) and w.requires_grad]
    taken = set(projected)
    plain: Group = {"params": [p for p in model.parameters() if p.requires_grad and p not in taken]}
    return [{"params": projected, **options}, plain] if projected else [plain]


# -------------------------------------------------------------------------------------------- optimizers


class ProjectedOptimizer(Optimizer):
    """Base of optimizers with projected groups (matrices in a singular basis) and plain groups.

    A group is projected if it carries the key ``marker``. Each parameter has its own step counter ``step`` (an
    int); parameters of equal shape, dtype and counter are stacked to (k, m, n) and stepped together. Half types
    are computed in float32; the state is kept in the parameter's dtype.

    A subclass names its marker, its ``builder`` of groups and its elementwise rule's ``fallback``, implements
    :meth:`rule` and :meth:`projected_step`, and extends :meth:`check_group`.

    Warns:
        UserWarning: two or more parameters with ndim >= 2, none in a projected group, and no group that says so
            itself by giving the marker.

    Reference: none, no paper: the base of Conda (arXiv 2509.24218), GaLore (arXiv 2403.03507) and Fira (arXiv
        2410.01623).
    """

    marker: ClassVar[str]
    builder: ClassVar[str]
    fallback: ClassVar[str]
    group_defaults: ClassVar[Mapping[str, Any]]

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        refuse_model(params, self, f"{self.builder}(model, targets=None)")
        super().__init__(params, defaults)
        matrices = sum(p.ndim >= 2 for group in self.param_groups for p in group["params"])
        # One matrix alone is what the builder takes for the head.
        if matrices >= 2 and not any(self.marker in group for group in self.param_groups):
            warn_of_fallback(
                self,
                self.fallback,
                f"Build the groups with {self.builder}(model, targets=None), or give as targets words that occur "
                "in the names of the model's linear layers.",
            )

    def is_projected(self, group: Mapping[str, Any]) -> bool:
        """Whether the parameters of ``group`` are stepped in a singular basis."""
        return self.marker in group

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raise ValueError if an option of ``group`` (defaults already filled in) is out of range."""
        check_rates(group["lr"], group.get("weight_decay", 0.0), eps=group["eps"])

    def rule(self, group: Group, slots: Slots, R: Sequence[Tensor]) -> list[Tensor]:
        """The elementwise rule: update the averages in ``state`` with R, return the normalised directions N."""
        raise NotImplementedError

    def step_size(self, group: Group, t: int) -> float:
        """eta of step t = 1, 2, ...: the learning rate, with the bias corrections where the rule has any."""
        raise NotImplementedError

    def renew_bases(self, group: Group, batch: MatrixBatch, slots: Slots, t: int) -> None:
        """Compute the bases that are due before step t = 0, 1, ... of equal-shaped matrices."""
        raise NotImplementedError

    def projected_step(self, group: Group, batch: MatrixBatch, slots: Slots, t: int) -> None:
        """Step t = 0, 1, ... (count before it) of equal-shaped matrices in their present bases."""
        raise NotImplementedError

    def step_each(self, group: Group, slots: Slots, each: Each, t: int) -> None:
        """The step of :meth:`projected_step` for matrices of any shapes, one by one (:mod:`normviz.optim._each`)."""
        raise NotImplementedError

    def plain_step(self, group: Group, slots: Slots, t: int) -> None:
        """Step t = 0, 1, ... of parameters of any shape without a basis: W <- W - eta N, then decay."""
        G = [at_least_float32(cast(Tensor, p.grad)) for p, _ in slots]
        self.apply(group, slots, self.rule(group, slots, G), t + 1)

    def apply(self, group: Group, slots: Slots, D: Sequence[Tensor], t: int, scale: float = 1.0) -> None:
        """W <- W - eta scale D, then W <- W - lr wd W; the counters become t."""
        weights = [p for p, _ in slots]
        directions = [
            d if d.shape == p.shape else d.reshape(p.shape) for d, p in zip(D, weights, strict=True)
        ]
        if "step_size" in group:
            self._apply_planned(group, weights, directions, scale)
            return
        torch._foreach_add_(weights, directions, alpha=-self.step_size(group, t) * scale)
        self.finish(group, slots, t)

    @staticmethod
    def _apply_planned(
        group: Group, weights: Sequence[Tensor], directions: Sequence[Tensor], scale: float
    ) -> None:
        """The same with the rates that :meth:`_planned` made tensors of; the counters are counted there too."""
        for p, d in zip(weights, directions, strict=True):
            p.sub_(d * (group["step_size"] * scale))
            if group["kept"] is not None:
                p.mul_(group["kept"])

    def finish(self, group: Group, slots: Slots, t: int) -> None:
        """W <- W - lr wd W; the counters become t."""
        weight_decay = group.get("weight_decay", 0.0)
        if weight_decay > 0:
            torch._foreach_mul_([p for p, _ in slots], 1 - float(group["lr"]) * weight_decay)
        for _, state in slots:
            state["step"] = t

    def stored(self, key: str, slots: Slots, like: Sequence[Tensor]) -> list[Tensor]:
        """state[key] of each parameter, created as zeros of the shape of ``like``, in at least float32.

        That is the state itself, or a wider copy of a half type, which :meth:`store` writes back.
        """
        for (p, state), x in zip(slots, like, strict=True):
            if key not in state:
                state[key] = torch.zeros_like(x, dtype=p.dtype, memory_format=torch.contiguous_format)
        return [at_least_float32(state[key]) for _, state in slots]

    def store(self, key: str, slots: Slots, X: Sequence[Tensor]) -> None:
        """state[key] <- X in place, rounded to the parameter's dtype."""
        for (_, state), x in zip(slots, X, strict=True):
            if state[key] is not x:
                state[key].copy_(x)

    def average(self, key: str, slots: Slots, X: Sequence[Tensor], beta: float) -> list[Tensor]:
        """state[key] <- beta state[key] + (1 - beta) X, and its value in at least float32."""
        kept = self.stored(key, slots, X)
        torch._foreach_lerp_(kept, list(X), 1 - beta)
        self.store(key, slots, kept)
        return kept

    def average_square(self, key: str, slots: Slots, X: Sequence[Tensor], beta: float) -> list[Tensor]:
        """state[key] <- beta state[key] + (1 - beta) X^2, and its value in at least float32."""
        return self.average(key, slots, torch._foreach_mul(list(X), list(X)), beta)

    def basis_due(self, group: Group, slots: Slots, side: str, t: int) -> bool:
        """Whether a basis is to be computed before step t: t mod T == 0, or a parameter has none yet."""
        key = BASIS_KEYS[side][0]
        return t % group["update_proj_gap"] == 0 or any(key not in state for _, state in slots)

    def refresh(
        self, group: Group, slots: Slots, X: Sequence[Tensor], side: str, t: int, rank: int | None = None
    ) -> None:
        """Recompute the bases that are due before step t from the matrices X.

        Raises:
            RuntimeError: X holds nan or inf where a basis is due (before anything is changed).
        """
        keys = BASIS_KEYS[side]
        fresh: list[tuple[Tensor, dict[str, Any], Basis]] = []
        for (p, state), x in zip(slots, X, strict=True):
            if t % group["update_proj_gap"] == 0 or keys[0] not in state:
                index = next(i for i, q in enumerate(group["params"]) if q is p)
                label = f"the matrix to decompose for parameter {index} of shape {tuple(p.shape)}"
                fresh.append((p, state, singular_basis(x, side, rank, label)))
        for p, state, basis in fresh:
            for key, vectors in zip(keys, basis, strict=True):
                state[key] = vectors.to(p.dtype)

    def bases(self, slots: Slots, side: str) -> Basis:
        """The stacked bases in at least float32."""
        return tuple(
            at_least_float32(stacked([state[key] for _, state in slots])) for key in BASIS_KEYS[side]
        )

    def add_param_group(self, param_group: Group) -> None:
        """Check a group completely, then add it (see ``torch.optim.Optimizer.add_param_group``).

        Raises:
            ValueError: an option out of range, or a projected group with a parameter of fewer than 2 axes.
        """
        group = dict(param_group)  # the caller's groups may serve several optimizers: leave them as they are
        if not isinstance(group["params"], Tensor | set):
            group["params"] = list(group["params"])
        if self.is_projected(group):
            group = {**self.group_defaults, **group}
            for p in tensors_of(group["params"]):
                if p.ndim < 2:
                    raise ValueError(
                        f"a group with {self.marker!r} may only hold parameters with at least 2 axes, "
                        f"got one of shape {tuple(p.shape)}."
                    )
        self.check_group({**self.defaults, **group})
        check_maximize({**self.defaults, **group})
        super().add_param_group(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Perform one step on every parameter that has a gradient.

        Args:
            closure: re-evaluates the model and returns the loss; called with gradients enabled.

        Returns:
            The closure's loss, None without a closure.

        Raises:
            RuntimeError: a gradient is sparse or complex (before anything is changed), or the matrix to
                decompose holds nan or inf (before its parameter is changed).
        """
        loss = evaluate(closure)
        if torch.compiler.is_compiling():
            planned = run_eagerly(self._planned)
            if planned:  # a compiler that once was given nothing would leave the function alone for good
                self._step_planned(planned)
            return loss
        refuse_unusual(self)
        with ascending(self.param_groups):
            for group in self.param_groups:
                for t, slots in self._by_step(group):
                    if not self.is_projected(group):
                        self.plain_step(group, slots, t)
                    elif one_by_one(slots):
                        self._step_each(group, slots, t)
                    else:
                        for batch, own in self._batches(slots):
                            self.renew_bases(group, batch, own, t)
                            self.projected_step(group, batch, own, t)
        return loss

    def _step_each(self, group: Group, slots: Slots, t: int) -> None:
        """:meth:`renew_bases`, then :meth:`step_each` for all matrices of the group."""
        proj_type = group["proj_type"]
        if self.basis_due(group, slots, "full" if proj_type == "full" else "left", t):
            for batch, own in self._batches(slots):
                self.renew_bases(group, batch, own, t)
        for part in parts(slots):
            sides = [projection_side(proj_type, *matrix_shape(p)) for p, _ in part]
            self.step_each(group, part, each_of(part, sides, BASIS_KEYS), t)

    def _by_step(self, group: Group) -> Iterable[tuple[int, Slots]]:
        """The parameters that have a gradient, with their state, by the steps that they have done."""
        by_step: dict[int, list[tuple[Tensor, dict[str, Any]]]] = {}
        for p in group["params"]:
            if p.grad is not None:
                state = self.state[p]
                by_step.setdefault(state.get("step", 0), []).append((p, state))
        return by_step.items()

    def _batches(self, slots: Slots) -> Iterator[tuple[MatrixBatch, Slots]]:
        """Equal-shaped matrices together, and their slots."""
        for batch in matrix_batches([p for p, _ in slots], cpu_entries=CPU_BATCH):
            yield batch, [(p, self.state[p]) for p in batch.params]

    def _step_planned(self, planned: list[tuple[Group, MatrixBatch, Slots]]) -> None:
        """The part of a step that is compiled: the arithmetic in present bases."""
        for group, batch, slots in planned:
            self.projected_step(group, batch, slots, 0)

    def _planned(self) -> list[tuple[Group, MatrixBatch, Slots]]:
        """What a compiled step has left to do, after all that a compiler is not for.

        That is decompositions, the parameters without a basis (torch's AdamW has a kernel of its own), the first step
        of a matrix, which makes its state, and the counters, at each of which the step would be compiled anew. The
        groups are copies whose rates are tensors: ``step_size``, and ``kept`` (1 - lr wd; None without decay).
        """
        refuse_unusual(self)
        planned: list[tuple[Group, MatrixBatch, Slots]] = []
        with ascending(self.param_groups):
            for group in self.param_groups:
                for t, slots in self._by_step(group):
                    if not self.is_projected(group):
                        self.plain_step(group, slots, t)
                        continue
                    decay = float(group["lr"]) * group.get("weight_decay", 0.0)
                    rates = {
                        "step_size": rate_tensor(self.step_size(group, t + 1)),
                        "kept": rate_tensor(1 - decay) if group.get("weight_decay", 0.0) > 0 else None,
                    }
                    for batch, own in self._batches(slots):
                        self.renew_bases(group, batch, own, t)
                        if t == 0:
                            self.projected_step(group, batch, own, t)
                        else:
                            planned.append(({**group, "lr": rates["step_size"], **rates}, batch, own))
        for _, _, slots in planned:
            for _, state in slots:
                state["step"] += 1
        return planned


class AdamRule(ProjectedOptimizer):
    """Adam as the elementwise rule, eps before the bias correction:

    m <- b1 m + (1 - b1) R ;  v <- b2 v + (1 - b2) R^2 ;  N = m/(sqrt(v) + eps) ;
    eta = lr sqrt(1 - b2^t)/(1 - b1^t), or lr without ``correct_bias``.

    Measured against torch's Adam the effective eps is eps/sqrt(1 - b2^t).
    """

    fallback: ClassVar[str] = "Adam"

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Adds the check of ``betas``."""
        super().check_group(group)
        check_betas(group["betas"])

    def rule(self, group: Group, slots: Slots, R: Sequence[Tensor]) -> list[Tensor]:
        """N = m/(sqrt(v) + eps) with both moments of R."""
        beta1, _ = group["betas"]
        m = self.average("exp_avg", slots, R, beta1)
        return list(torch._foreach_div(m, self.divisor(group, slots, R)))

    def divisor(self, group: Group, slots: Slots, R: Sequence[Tensor]) -> list[Tensor]:
        """v <- b2 v + (1 - b2) R^2 ; sqrt(v) + eps."""
        _, beta2 = group["betas"]
        divisor = torch._foreach_sqrt(self.average_square("exp_avg_sq", slots, R, beta2))
        torch._foreach_add_(divisor, group["eps"])
        return list(divisor)

    def plain_step(self, group: Group, slots: Slots, t: int) -> None:
        """W <- W - eta N, then decay, by torch's AdamW.

        Its step is lr'/(1 - b1^t) m / (sqrt(v)/sqrt(1 - b2^t) + eps'), which is eta N for eps' = eps/sqrt(1 - b2^t)
        and lr' = eta (1 - b1^t)/sqrt(1 - b2^t).
        """
        beta1, beta2 = group["betas"]
        root = math.sqrt(1 - beta2 ** (t + 1))
        params = [p for p, _ in slots]
        G = [cast(Tensor, p.grad) for p in params]
        m, v = (self.stored(key, slots, G) for key in ("exp_avg", "exp_avg_sq"))
        wide = [at_least_float32(p) for p in params]
        fused_adamw(
            wide,
            [at_least_float32(g) for g in G],
            m,
            v,
            torch.full((len(wide),), float(t)).unbind(),
            lr=self.step_size(group, t + 1) * (1 - beta1 ** (t + 1)) / root,
            betas=group["betas"],
            eps=group["eps"] / root,
        )
        self.store("exp_avg", slots, m)
        self.store("exp_avg_sq", slots, v)
        for p, w in zip(params, wide, strict=True):
            if p is not w:
                p.copy_(w)
        self.finish(group, slots, t + 1)

    def step_size(self, group: Group, t: int) -> float:
        """lr sqrt(1 - b2^t)/(1 - b1^t), or lr without ``correct_bias``."""
        lr = float(group["lr"])
        if not group["correct_bias"]:
            return lr
        beta1, beta2 = group["betas"]
        return lr * math.sqrt(1 - beta2**t) / float(1 - beta1**t)
