"""Parts: one idea each, as data that can be composed, printed, overridden and evaluated.

A part is a function whose positional parameters are given by the loop and whose keyword-only parameters are its
hyper-parameters; the typed signature is the schema. Calling the decorated name binds hyper-parameters:

    @part
    def mse(players: Players, batch: Batch, *, of: str = "logits") -> Tensor: ...

    loss = terms(hard=0.1 * cross_entropy(), soft=mse(of="hidden"))

What the positional parameters are says what kind of part it is: `(players, batch)` a loss, a weight or a batch part,
`(at)` a schedule, `(params)` an optimiser, `(players, data)` a probe, `(seed)` a builder of modules.

A loss part returns one loss per row (B,), per token (B, T), or a mean (); the reduction is done here and nowhere else,
over the counts of the *global* batch, so that a loss does not depend on how a batch is split over micro-batches and
processes. A weight part multiplies it row by row or token by token. A loss part with a parameter `weight` (after
`players` and `batch`) takes that weight itself and returns the weighted sum: so fused kernels form gradients in the
forward.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from limbeck.batch import Batch, Moment
from limbeck.errors import BadValue, BrokenRecipe, unknown

__all__ = ["Expr", "Named", "Part", "Pipe", "Renamed", "Scaled", "Spec", "Sum", "part", "terms"]

MAX_HYPER = 6
DTYPES = ("float64", "float32", "bfloat16")


@dataclass(frozen=True, eq=False)
class Spec:
    """What is known of a part before it is bound: its function, positional names and schema.

    Calling it binds hyper-parameters and gives a `Part`.

    Args:
        fn: the function; its docstring's second paragraph is the maths that `limbeck show` prints.
        coupled: the loss of a row depends on other rows, so that it cannot be split over processes unless it gathers.
        higher: of a probe, whether more is better.
        dtypes: the types of numbers it works in; the loop refuses others.

    Raises:
        BrokenRecipe: more than six hyper-parameters, or one without a default or an annotation.
    """

    fn: Callable[..., Any]
    coupled: bool = False
    higher: bool = False
    dtypes: tuple[str, ...] = DTYPES

    def __post_init__(self) -> None:
        for p in self.hyper.values():
            if p.default is p.empty or p.annotation is p.empty:
                raise BrokenRecipe(f"part {self.name}: hyper-parameter {p.name!r} needs a default and an annotation")
        if len(self.hyper) > MAX_HYPER:
            raise BrokenRecipe(f"part {self.name}: {len(self.hyper)} hyper-parameters, at most {MAX_HYPER} are allowed")

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """All parameters of the function by name."""
        return inspect.signature(self.fn).parameters

    @cached_property
    def takes(self) -> tuple[str, ...]:
        """The positional parameters: the kind of the part."""
        return tuple(n for n, p in self.parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD)

    @cached_property
    def hyper(self) -> dict[str, inspect.Parameter]:
        """The keyword-only parameters: the schema."""
        return {n: p for n, p in self.parameters.items() if p.kind is p.KEYWORD_ONLY}

    @cached_property
    def types(self) -> dict[str, Any]:
        """The resolved annotations of the hyper-parameters."""
        hints = typing.get_type_hints(self.fn)
        return {name: hints[name] for name in self.hyper}

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.fn.__name__

    @property
    def about(self) -> str:
        """The first paragraph of the docstring: what it is, in a sentence."""
        return (inspect.getdoc(self.fn) or "").split("\n\n")[0]

    @property
    def maths(self) -> str:
        """The second paragraph of the docstring: by custom, the formula."""
        paragraphs = (inspect.getdoc(self.fn) or "").split("\n\n")
        return paragraphs[1] if len(paragraphs) > 1 else ""

    def __call__(self, **hyper: Any) -> Part:
        """Bind hyper-parameters; those not given keep their published defaults.

        Raises:
            UnknownName: a hyper-parameter that the part does not have.
            BadValue: a value of the wrong type.
        """
        bound = {name: p.default for name, p in self.hyper.items()}
        for name, value in hyper.items():
            bound[name] = self.check(name, value)
        return Part(self, tuple(bound.items()))

    def check(self, name: str, value: Any) -> Any:
        """Check one hyper-parameter against the schema and return it (an int becomes a float where one is wanted).

        Raises:
            UnknownName: a hyper-parameter that the part does not have.
            BadValue: a value of the wrong type; a schedule is welcome wherever a number is.
        """
        if name not in self.hyper:
            raise unknown("hyper-parameter", name, self.hyper, where=f"part {self.name}")
        kinds = _kinds(self.types[name])
        if float in kinds and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        scheduled = isinstance(value, Part) and value.spec.takes == ("at",) and kinds & {int, float}
        boolean = isinstance(value, bool) and bool not in kinds
        if scheduled or (isinstance(value, tuple(kinds)) and not boolean):
            return value
        wanted = " or ".join(sorted(k.__name__ for k in kinds))
        raise BadValue(f"{self.name}.{name} must be {wanted}, got {value!r}")


def _kinds(annotation: Any) -> set[type]:
    """The classes that a value of this annotation may have."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return set().union(*(_kinds(a) for a in typing.get_args(annotation)))
    origin = typing.get_origin(annotation) or annotation
    return {origin if isinstance(origin, type) else object}


@typing.overload
def part(fn: Callable[..., Any]) -> Spec: ...
@typing.overload
def part(
    *, coupled: bool = ..., higher: bool = ..., dtypes: tuple[str, ...] = ...
) -> Callable[[Callable[..., Any]], Spec]: ...
def part(
    fn: Callable[..., Any] | None = None, *, coupled: bool = False, higher: bool = False,
    dtypes: tuple[str, ...] = DTYPES,
) -> Any:  # fmt: skip
    """Make a function a part: `part` or `part(coupled=True)` as a decorator.

    Args:
        fn: the function; positional parameters come from the loop, keyword-only ones are hyper-parameters.
        coupled: the loss of one row depends on other rows.
        higher: of a probe, whether more is better; distances, errors and losses are better small.
        dtypes: the types of numbers it works in, of float64, float32 and bfloat16 (as mixed precision has it).

    Returns:
        A `Spec`; call it with hyper-parameters to get a `Part`, or call its `.fn` as the plain function.

    Raises:
        BrokenRecipe: more than six hyper-parameters, or one without a default or an annotation.

    Example:
        >>> @part
        ... def ramp(at: Moment, *, top: float = 1.0) -> float:
        ...     return top * at.progress
        >>> ramp(top=3)
        ramp(top=3.0)
        >>> ramp(tip=3)
        Traceback (most recent call last):
        limbeck.errors.UnknownName: unknown hyper-parameter 'tip' in part ramp; did you mean 'top'? possible: top
    """
    if fn is None:
        return lambda fn: Spec(fn, coupled, higher, dtypes)
    return Spec(fn, coupled, higher, dtypes)


class Expr:
    """Anything composed of parts. `a + b` adds losses, `w * a` weights them, `a >> b` pipes batches."""

    def __add__(self, other: Expr) -> Sum:
        return Sum((*_members(self, Sum), *_members(other, Sum)))

    def __rshift__(self, other: Expr) -> Pipe:
        return Pipe((*_members(self, Pipe), *_members(other, Pipe)))

    def __rmul__(self, weight: float) -> Scaled:
        return Scaled(float(weight), self)

    def __mul__(self, loss: Expr) -> Scaled:
        return Scaled(self, loss)

    def __call__(self, *args: Any) -> Any:
        """Evaluate on the positional arguments of its kind.

        Raises:
            BrokenRecipe: it is a loss made of several, which only `total` evaluates.
        """
        raise BrokenRecipe(f"{self!r} is a loss: it has a total, and cannot be called as a batch part or a weight")

    def children(self) -> dict[str, Any]:
        """What a dotted path can address below this expression, by name.

        Raises:
            NotImplementedError: here; every kind of expression has its own.
        """
        raise NotImplementedError

    def child(self, name: str, value: Any) -> Expr:
        """Return the expression with one of its children replaced.

        Raises:
            NotImplementedError: here; every kind of expression has its own.
        """
        raise NotImplementedError

    def total(self, players: Any, batch: Batch, weight: Any = None) -> dict[str, Tensor]:
        """Evaluate as a loss: the named contributions of this micro-batch to the mean over the global batch.

        Raises:
            NotImplementedError: the expression is no loss.
        """
        raise NotImplementedError

    def leaves(self) -> Iterator[Part]:
        """Every part in the expression, those inside hyper-parameters included."""
        for value in self.children().values():
            if isinstance(value, Expr):
                yield from value.leaves()

    def on(self, **names: str) -> Renamed:
        """Return the expression with other players in the roles: `kl().on(teacher="ema")`."""
        return Renamed(self, tuple(names.items()))


def _members(expr: Expr, kind: type[Sum | Pipe]) -> tuple[Expr, ...]:
    return expr.parts if isinstance(expr, kind) else (expr,)


def _times(a: Any, b: Any) -> Any:
    """The product of two weights, of which None is one and a row's weight serves all its tokens."""
    if a is None or b is None:
        return b if a is None else a
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.ndim != b.ndim:
        a, b = (a[:, None], b) if a.ndim == 1 else (a, b[:, None])
    return a * b


@dataclass(frozen=True)
class Part(Expr):
    """A part with its hyper-parameters bound.

    Args:
        spec: the part.
        hyper: (name, value) of every hyper-parameter; values may be schedules or other parts.
    """

    spec: Spec
    hyper: tuple[tuple[str, Any], ...]

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={v!r}" for k, v in self.hyper)
        return f"{self.spec.name}({shown})"

    def children(self) -> dict[str, Any]:
        """The hyper-parameters by name."""
        return dict(self.hyper)

    def child(self, name: str, value: Any) -> Part:
        """Return the part with one hyper-parameter replaced and checked.

        Raises:
            UnknownName: it has no hyper-parameter of that name.
            BadValue: the value is of the wrong type.
        """
        return self.spec(**{**dict(self.hyper), name: value})

    def leaves(self) -> Iterator[Part]:
        """The part itself and every part among its hyper-parameters.

        Example:
            >>> @part
            ... def ramp(at: Moment, *, top: float = 1.0) -> float:
            ...     return top * at.progress
            >>> list(ramp(top=ramp()).leaves())
            [ramp(top=ramp(top=1.0)), ramp(top=1.0)]
        """
        yield self
        yield from super().leaves()

    def __call__(self, *args: Any) -> Any:
        """Call the function, its schedules resolved at the place where the last argument stands."""
        at = args[-1] if args and isinstance(args[-1], Moment) else getattr(args[-1], "at", Moment()) if args else None
        return self.spec.fn(*args, **self.resolved(at))

    def resolved(self, at: Moment | None) -> dict[str, Any]:
        """The hyper-parameters with every schedule replaced by its number at `at`."""
        return {k: v(at) if isinstance(v, Part) and v.spec.takes == ("at",) else v for k, v in self.hyper}

    def total(self, players: Any, batch: Batch, weight: Any = None) -> dict[str, Tensor]:
        """Evaluate as a loss (see `Expr.total`).

        Raises:
            BrokenRecipe: the loss is neither (), (B,) nor (B, T).
        """
        mask = batch.get("mask")
        if "weight" in self.spec.takes:
            w = mask if weight is None else _times(mask, weight)
            hyper = self.resolved(batch.at)
            return {"loss": self.spec.fn(players, batch, w, **hyper) / batch.counts["tokens"]}
        loss = self(players, batch)
        if loss.ndim == 2 and mask is not None and loss.shape == mask.shape:
            mean = _times(loss.where(mask, 0.0), weight).sum() / batch.counts["tokens"]
        elif loss.shape == (batch.size,):
            mean = _times(loss, weight).sum() / batch.counts["rows"]
        elif loss.ndim == 0 and weight is None:
            mean = loss * (batch.size / batch.counts["rows"])
        else:
            raise BrokenRecipe(
                f"part {self.spec.name} returned a loss of shape {tuple(loss.shape)}; with {batch.size} rows it must "
                f"be (), ({batch.size},) or that of the mask, and a weighted one must not be ()"
            )
        return {"loss": mean}


@dataclass(frozen=True)
class Sum(Expr):
    """The sum of losses."""

    parts: tuple[Expr, ...]

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts))

    def children(self) -> dict[str, Any]:
        """The addends by the names of their parts."""
        return _by_name(self.parts)

    def child(self, name: str, value: Any) -> Expr:
        """Return the sum with one addend replaced."""
        return replace(self, parts=_swapped(self.parts, name, value))

    def total(self, players: Any, batch: Batch, weight: Any = None) -> dict[str, Tensor]:
        """Evaluate as a loss: one contribution, the sum.

        Raises:
            BrokenRecipe: the loss of a part is neither (), (B,) nor (B, T).
        """
        return {"loss": sum(v for p in self.parts for v in p.total(players, batch, weight).values())}  # type: ignore[dict-item]


@dataclass(frozen=True)
class Pipe(Expr):
    """Batch parts one after the other."""

    parts: tuple[Expr, ...]

    def __repr__(self) -> str:
        return " >> ".join(map(repr, self.parts))

    def children(self) -> dict[str, Any]:
        """The steps by the names of their parts."""
        return _by_name(self.parts)

    def child(self, name: str, value: Any) -> Expr:
        """Return the pipe with one step replaced."""
        return replace(self, parts=_swapped(self.parts, name, value))

    def __call__(self, *args: Any) -> Any:
        """Send a batch through every step, with the same players."""
        players, batch = args
        for step in self.parts:
            batch = step(players, batch)
        return batch


def _named(expr: Expr) -> str:
    inner = expr.expr if isinstance(expr, (Scaled, Renamed)) else expr
    return inner.spec.name if isinstance(inner, Part) else type(inner).__name__.lower()


def _by_name(parts: tuple[Expr, ...]) -> dict[str, Expr]:
    """Members by the names of their parts; a repeated name counts on: mse, mse_2."""
    out: dict[str, Expr] = {}
    for expr in parts:
        name, n = _named(expr), sum(_named(p) == _named(expr) for p in parts[: len(out)])
        out[f"{name}_{n + 1}" if n else name] = expr
    return out


def _swapped(parts: tuple[Expr, ...], name: str, value: Expr) -> tuple[Expr, ...]:
    return tuple((_by_name(parts) | {name: value}).values())


@dataclass(frozen=True)
class Scaled(Expr):
    """A loss times a weight: a number, a schedule, or a part that gives one weight per row or token."""

    weight: float | Expr
    expr: Expr

    def __repr__(self) -> str:
        inner = f"({self.expr!r})" if isinstance(self.expr, Sum) else repr(self.expr)
        return f"{self.weight!r} * {inner}"

    def children(self) -> dict[str, Any]:
        """The weight, and whatever the weighted loss has."""
        return {**self.expr.children(), "weight": self.weight}

    def child(self, name: str, value: Any) -> Expr:
        """Return the product with its weight, or something in its loss, replaced.

        Raises:
            BadValue: a weight that is neither a number nor an expression.
        """
        if name != "weight":
            return replace(self, expr=self.expr.child(name, value))
        if not isinstance(value, (int, float, Expr)) or isinstance(value, bool):
            raise BadValue(f"a weight must be a number or a schedule, got {value!r}")
        return replace(self, weight=value)

    def leaves(self) -> Iterator[Part]:
        """Every part of the weight and of the loss."""
        if isinstance(self.weight, Expr):
            yield from self.weight.leaves()
        yield from self.expr.leaves()

    def total(self, players: Any, batch: Batch, weight: Any = None) -> dict[str, Tensor]:
        """Evaluate as a loss: a number scales the sum, a part's weights go down to the rows and tokens.

        Raises:
            BrokenRecipe: the loss of a part is neither (), (B,) nor (B, T).
        """
        own = self.weight
        if isinstance(own, Part) and own.spec.takes == ("at",):
            own = own(batch.at)
        if isinstance(own, Expr):
            return self.expr.total(players, batch, _times(own(players, batch), weight))
        return {k: own * v for k, v in self.expr.total(players, batch, weight).items()}


@dataclass(frozen=True)
class Named(Expr):
    """Named terms of a loss; made by `terms`."""

    named: tuple[tuple[str, Expr], ...] = field(default=())

    def __repr__(self) -> str:
        return " + ".join(f"{name}: {expr!r}" for name, expr in self.named)

    def children(self) -> dict[str, Any]:
        """The terms by name."""
        return dict(self.named)

    def child(self, name: str, value: Any) -> Expr:
        """Return the loss with one term replaced."""
        return replace(self, named=tuple((dict(self.named) | {name: value}).items()))

    def total(self, players: Any, batch: Batch, weight: Any = None) -> dict[str, Tensor]:
        """Evaluate as a loss: one contribution a term.

        Raises:
            BrokenRecipe: the loss of a part is neither (), (B,) nor (B, T).
        """
        return {k: v for name, e in self.named for k, v in _prefixed(name, e.total(players, batch, weight)).items()}


@dataclass(frozen=True)
class Renamed(Expr):
    """An expression that sees other players in its roles; made by `Expr.on`."""

    expr: Expr
    names: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        return f"{self.expr!r}[{', '.join(f'{role}={player}' for role, player in self.names)}]"

    def children(self) -> dict[str, Any]:
        """Whatever the expression has."""
        return self.expr.children()

    def child(self, name: str, value: Any) -> Expr:
        """Return the expression with something in it replaced."""
        return replace(self, expr=self.expr.child(name, value))

    def leaves(self) -> Iterator[Part]:
        """The parts of the expression."""
        return self.expr.leaves()

    def __call__(self, *args: Any) -> Any:
        """Call the expression with the players renamed."""
        players, *rest = args
        return self.expr(players.renamed(dict(self.names)), *rest)

    def total(self, players: Any, batch: Batch, weight: Any = None) -> dict[str, Tensor]:
        """Evaluate as a loss with the players renamed.

        Raises:
            UnknownName: no player has one of the names.
            BrokenRecipe: the loss of a part is neither (), (B,) nor (B, T).
        """
        return self.expr.total(players.renamed(dict(self.names)), batch, weight)


def _prefixed(name: str, totals: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name if k == "loss" else f"{name}.{k}": v for k, v in totals.items()}


def terms(**named: Expr) -> Named:
    """Name the terms of a loss, so that they are logged and overridden by name.

    Args:
        named: each term; weights are written in place, `gan=0.5 * adversarial()`.

    Returns:
        The loss whose terms are added.

    Raises:
        BadValue: something that is not a part.

    Example:
        >>> @part
        ... def size(players: Any, batch: Batch) -> Tensor:
        ...     return batch.x.square().sum(1)
        >>> terms(small=0.5 * size())
        small: 0.5 * size()
    """
    for name, expr in named.items():
        if not isinstance(expr, Expr):
            raise BadValue(f"term {name!r} must be made of parts, got {expr!r}")
    return Named(tuple(named.items()))
