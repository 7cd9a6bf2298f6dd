"""Intents as restrictions and prices of a problem's options.

A pin leaves a leaf's node the options with that spec, a ban those without the axis. A tie makes
two nodes pay without end where their specs differ, a preference charges its price where the spec
is another one. What contradicts itself is found here, before any search, with both origins.

Prices are part of what is searched and of its bound, never of a plan's predicted seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autoshard.errors import IntentError
from autoshard.intent import Forbid, Intent, Pin, Prefer, Tie, matches
from autoshard.machine.model import LogicalMesh
from autoshard.program.ir import Leaf, Op
from autoshard.program.spec import Spec
from autoshard.search.build import MeshProblem
from autoshard.search.graph import Dims, classes_of
from autoshard.search.problem import Floats, Pair, Problem
from autoshard.search.reduce import Keep
from autoshard.search.tie import Tied, tie

Mask = NDArray[np.bool_]

# Seconds a broken tie costs: more than any step takes, small enough to add up without harm.
_NEVER_S = 1e6


@dataclass(frozen=True)
class _Place:
    """A leaf and the decision it rests in."""

    name: str
    leaf: Leaf
    node: int
    dims: Dims


@dataclass(frozen=True)
class Granted:
    """A problem with intents.

    Attributes:
        numbers: without them.
        allowed: per node that an intent restricts, which options are left.
        prices_s: per node, what preferences charge for its options.
        pairs: what ties charge.
    """

    numbers: MeshProblem
    allowed: dict[int, Mask]
    prices_s: dict[int, Floats]
    pairs: tuple[Pair, ...]

    @cached_property
    def problem(self) -> Problem:
        """With the prices of ties and preferences."""
        problem, extra = self.numbers.problem, self.prices_s
        if not extra and not self.pairs:
            return problem
        return replace(
            problem,
            variables=tuple(
                replace(v, cost_s=v.cost_s + extra[i]) if i in extra else v
                for i, v in enumerate(problem.variables)
            ),
            pairs=(*problem.pairs, *self.pairs),
        )

    def tied(self, groups: Iterable[Sequence[int]]) -> Tied:
        """The problem with groups of nodes laid out alike, as far as no intent tells them apart."""
        groups = self.alike(groups)
        if self.prices_s or self.pairs:
            return tie(self.problem, groups)
        return self.numbers.tied(groups)

    @property
    def keep(self) -> Keep:
        """The options that are left."""
        return self.within([list(range(len(o))) for o in self.numbers.layouts.options])

    def within(self, keep: Keep) -> Keep:
        """The options that are left of those in `keep`; where none of these is, all that are."""
        found = list(keep)
        for node, mask in self.allowed.items():
            left = [o for o in found[node] if mask[o]]
            found[node] = left or [int(o) for o in np.flatnonzero(mask)]
        return found

    def alike(self, groups: Iterable[Sequence[int]]) -> Iterator[tuple[int, ...]]:
        """Groups of nodes whose members an intent tells apart, taken apart."""
        for group in groups:
            parts: dict[bytes, list[int]] = {}
            for node in group:
                mask = self.allowed.get(node)
                parts.setdefault(b"" if mask is None else mask.tobytes(), []).append(node)
            yield from (tuple(part) for part in parts.values() if len(part) > 1)


def grant(numbers: MeshProblem, intents: Sequence[Intent]) -> Granted:
    """The problem in which only layouts that respect the intents are left, or cheap.

    Raises:
        IntentError: an intent matches nothing, cannot be met on this mesh, or contradicts another.
    """
    places = tuple(_places(numbers)) if intents else ()
    own = _own(numbers)
    for intent in intents:
        for pattern in (intent.path, *((intent.other,) if isinstance(intent, Tie) else ())):
            if not any(matches(pattern, p.name) for p in places):
                known = ", ".join(p.name for p in places[:4])
                raise IntentError(
                    f"{intent} at {intent.where}: no input matches {pattern!r}; there are"
                    f" {len(places)} leaves, such as {known}"
                )
    allowed = _allowed(numbers, intents, places)
    for node, (mask, where) in own.items():
        both = mask & allowed.get(node, np.ones_like(mask))
        if not both.any():
            said = " and ".join(f"{i} at {i.where}" for i in _about(intents, places, node))
            raise IntentError(f"{where} contradicts {said}: both are about one layout")
        allowed[node] = both
    return Granted(numbers, allowed, *_priced(numbers, intents, places))


def _own(numbers: MeshProblem) -> dict[int, tuple[Mask, str]]:
    """What all that the user lays out in the program leaves of a node's options, and where.

    Raises:
        IntentError: one of them cannot be had, or two of them not together.
    """
    found: dict[int, tuple[Mask, str]] = {}
    for node, mask, where in _own_constraints(numbers):
        if node in found:
            before, first = found[node]
            mask, where = mask & before, f"{first} and {where}" if where != first else where
            if not mask.any():
                raise IntentError(f"{where} contradict each other: both are about one layout")
        found[node] = mask, where
    return found


def _about(intents: Sequence[Intent], places: Sequence[_Place], node: int) -> Iterator[Intent]:
    """Pins and bans of what rests in a node."""
    names = [place.name for place in places if place.node == node]
    for intent in intents:
        if isinstance(intent, Pin | Forbid) and any(map(intent.matches, names)):
            yield intent


def _own_constraints(numbers: MeshProblem) -> Iterator[tuple[int, Mask, str]]:
    """What the user's own sharding constraints leave of the options of their nodes.

    Raises:
        IntentError: the mesh has no such axis, or a dimension does not divide.
    """
    analysis, sizes = numbers.analysis, numbers.mesh.sizes
    for op in analysis.program.ops:
        if op.manual is not None:
            yield from _own_layout(numbers, op)
        if op.pinned is None:
            continue
        node = analysis.graph.op_node[op.id]
        dims = classes_of(analysis.graph.op_classes[op.id], op.rule.results[0])
        said = Spec(tuple(dim or () for dim in op.pinned))
        where = f"sharding constraint {said} at {op.source}"
        unknown = sorted(set(said.axes) - set(sizes))
        if unknown:
            raise IntentError(f"{where}: {_no_axis(unknown, numbers.mesh)}")
        wanted = [None if d is None else tuple(a for a in d if sizes[a] > 1) for d in op.pinned]
        mask = np.array(
            [
                all(w is None or w == have for w, have in zip(wanted, spec.dims, strict=True))
                for o in range(len(numbers.layouts.options[node]))
                for spec in (numbers.layouts.spec(node, o, dims),)
            ]
        )
        if not mask.any():
            shape = analysis.program.tensors[op.outputs[0]].shape
            raise IntentError(f"{where}: {_indivisible('it', shape, said, sizes)}")
        if not mask.all():
            yield node, mask, where


def _own_layout(numbers: MeshProblem, op: Op) -> Iterator[tuple[int, Mask, str]]:
    """What the user's own layout of an op leaves; nothing but whole on a mesh of other sizes."""
    assert op.manual is not None
    graph, sizes, taken = numbers.analysis.graph, numbers.mesh.sizes, op.manual.taken
    node, factors = graph.op_node[op.id], graph.op_classes[op.id]
    here, gone = taken.is_for(sizes), taken.on(sizes)
    wanted = tuple(
        None if axes is None else tuple(a for a in axes if sizes[a] > 1) if here else ()
        for axes in op.manual.axes
    )
    specs = (
        numbers.layouts.spec(node, o, factors).dims
        for o in range(len(numbers.layouts.options[node]))
    )
    mask = np.array(
        [
            all(
                gone.isdisjoint(have) if want is None else have == want
                for want, have in zip(wanted, spec, strict=True)
            )
            for spec in specs
        ]
    )
    if not mask.any():
        raise IntentError(
            f"{op.kind} at {op.source}: its layout {Spec(tuple(w or () for w in wanted))} cannot be"
            " had together with what else is said of the arrays that it reads and makes"
        )
    if not mask.all():
        yield node, mask, f"the layout of {op.kind} at {op.source}"


def leaf_name(leaf: Leaf) -> str:
    """A leaf's path with slashes: "state/params/mlp/up"."""
    root = leaf.path.partition("[")[0].partition(".")[0]
    return "/".join((root, *(key for _, key in leaf.treepath[1:])))


def _places(numbers: MeshProblem) -> Iterator[_Place]:
    graph = numbers.analysis.graph
    for leaf in numbers.analysis.program.inputs:
        if leaf.tensor is not None and leaf.shape:
            t = leaf.tensor
            yield _Place(leaf_name(leaf), leaf, graph.node_of[t], graph.dims[t])


def _specs(numbers: MeshProblem, place: _Place) -> list[Spec]:
    options = len(numbers.layouts.options[place.node])
    return [numbers.layouts.spec(place.node, o, place.dims) for o in range(options)]


def _wanted(intent: Pin | Prefer, place: _Place, numbers: MeshProblem) -> Spec:
    """The intent's spec for one leaf: filled up, without axes that the mesh has at size 1."""
    spec, sizes = intent.spec, numbers.mesh.sizes
    unknown = sorted(set(spec.axes) - set(sizes))
    if unknown:
        raise IntentError(f"{intent} at {intent.where}: {_no_axis(unknown, numbers.mesh)}")
    rank = len(place.leaf.shape)
    if spec.rank > rank:
        raise IntentError(
            f"{intent} at {intent.where}: {place.name} has {rank} dimensions, the spec {spec.rank}"
        )
    dims = (*spec.dims, *((),) * (rank - spec.rank))
    return Spec(tuple(tuple(a for a in dim if sizes[a] > 1) for dim in dims))


def _allowed(
    numbers: MeshProblem, intents: Sequence[Intent], places: Sequence[_Place]
) -> dict[int, Mask]:
    allowed: dict[int, Mask] = {}
    origins: dict[int, list[tuple[Intent, _Place]]] = {}
    for intent in intents:
        if not isinstance(intent, Pin | Forbid):
            continue
        for place in places:
            if not intent.matches(place.name):
                continue
            specs = _specs(numbers, place)
            if isinstance(intent, Pin):
                wanted = _wanted(intent, place, numbers)
                mask = np.array([s == wanted for s in specs])
            else:
                mask = np.array([set(intent.axes).isdisjoint(s.axes) for s in specs])
            if not mask.any():
                raise IntentError(_impossible(intent, place, numbers))
            both = mask & allowed.get(place.node, np.ones_like(mask))
            if not both.any():
                raise IntentError(_contradiction(intent, place, origins[place.node]))
            allowed[place.node] = both
            origins.setdefault(place.node, []).append((intent, place))
    return {node: mask for node, mask in allowed.items() if not mask.all()}


def _contradiction(intent: Intent, place: _Place, before: Sequence[tuple[Intent, _Place]]) -> str:
    said = " and ".join(dict.fromkeys(f"{other} at {other.where}" for other, _ in before))
    names = list(dict.fromkeys(at.name for _, at in before))
    about = f"both about {place.name}"
    if names != [place.name]:
        about = f"{place.name} and {', '.join(names)} share one layout"
    return f"{intent} at {intent.where} contradicts {said}: {about}"


def _impossible(intent: Pin | Forbid, place: _Place, numbers: MeshProblem) -> str:
    reason = f"{place.name} cannot be laid out so on ({numbers.mesh})"
    if isinstance(intent, Pin):
        wanted = _wanted(intent, place, numbers)
        reason = _indivisible(place.name, place.leaf.shape, wanted, numbers.mesh.sizes)
    return f"{intent} at {intent.where}: {reason}"


def _no_axis(names: Sequence[str], mesh: LogicalMesh) -> str:
    return (
        f"the mesh ({mesh}) has no axis {', '.join(map(repr, names))}; it has"
        f" {', '.join(map(repr, mesh.sizes))}"
    )


def _indivisible(what: str, shape: Sequence[int], spec: Spec, sizes: Mapping[str, int]) -> str:
    """Why a tensor cannot have a spec."""
    for d, axes in enumerate(spec.dims):
        if shape[d] % math.prod(sizes[a] for a in axes):
            said = " x ".join(f"{a} {sizes[a]}" for a in axes)
            return f"dimension {d} of {what} has {shape[d]} elements, which {said} does not divide"
    return f"the program reads a dimension of {what} whole"


def _priced(
    numbers: MeshProblem, intents: Sequence[Intent], places: Sequence[_Place]
) -> tuple[dict[int, Floats], tuple[Pair, ...]]:
    """What preferences charge, per option of nodes, and ties, per pair of options."""
    extra: dict[int, Floats] = {}
    pairs: list[Pair] = []
    for intent in intents:
        if isinstance(intent, Prefer):
            for place in places:
                if intent.matches(place.name):
                    wanted = _wanted(intent, place, numbers)
                    other = np.array([s != wanted for s in _specs(numbers, place)])
                    extra[place.node] = extra.get(place.node, 0.0) + intent.price_s * other
        elif isinstance(intent, Tie):
            for one, other_place in _partners(intent, places):
                if one.node != other_place.node:
                    pairs.append(_tied(numbers, one, other_place))
    return extra, tuple(pairs)


def _partners(tie: Tie, places: Sequence[_Place]) -> Iterator[tuple[_Place, _Place]]:
    """Leaves to tie: of equal shape, each with the other that shares most of its path.

    Raises:
        IntentError: a leaf has no partner of its shape.
    """
    others = [p for p in places if matches(tie.other, p.name)]
    for place in places:
        if not tie.matches(place.name):
            continue
        fitting = [p for p in others if p.leaf.shape == place.leaf.shape and p is not place]
        if not fitting:
            shape = "x".join(map(str, place.leaf.shape))
            raise IntentError(
                f"{tie} at {tie.where}: {place.name} has shape {shape}, and nothing else that"
                f" matches {tie.other!r} has"
            )
        ending = place.name.split("/")[::-1]
        yield place, max(fitting, key=lambda p: _common(ending, p.name.split("/")[::-1]))


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """How many steps two paths, read from the end, share."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))


def _tied(numbers: MeshProblem, a: _Place, b: _Place) -> Pair:
    left, right = _specs(numbers, a), _specs(numbers, b)
    table = np.array([[0.0 if s == o else _NEVER_S for o in right] for s in left])
    return Pair(a.node, b.node, table)
