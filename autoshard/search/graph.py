"""Decisions from factors: which dimensions share one decision, and where layouts may change.

Every dimension of every tensor and every factor of every op belongs to a *class*: dimensions that
flow into each other through elementwise ops, transposes, reductions and loop boundaries share
one, and the mesh axes that split it are decided once. Classes that meet in a tensor form a
*node*, the unit that the search gives a layout. Between nodes runs a *flow*: a tensor that may be
laid out differently on the two sides, at the price of a reshard.

Nodes break apart where layouts really change:

* at operands and results of matmuls, convolutions, lookups, sorts, and of every op that needs
  one of its dimensions whole, so that the need stays with the op;
* where a parameter at rest is read (gather for use), where a gradient enters the optimizer, and
  where an output leaves the program;
* where a loop's carry is initialised;
* at the user's own sharding constraints;
* where tying would put one class on two dimensions of a tensor (scores = q x k over the same
  sequence): the operand becomes a flow instead;
* where a node would hold two classes that meet in no tensor, and an axis could not split the one
  here and the other there (the batch of the forward and of the backward pass, held together by a
  table of angles that both read).

Several heavy readers of one value close to each other read it through one shared *use* node,
so that a reshard for all of them is paid once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from math import gcd

from autoshard.program.ir import Op, Place, Program, Role, Taken
from autoshard.program.rule import Combiner, FactorKind, OpClass
from autoshard.search.regions import update_ops

Dims = tuple[int | None, ...]  # class per dimension; None: whole (or of size 1)

# Readers further apart than this (in ops) don't share a resharded copy: it would have to be kept.
_SHARING_DISTANCE = 50
_ENTER = frozenset(
    {"scan_const", "scan_init", "scan_xs", "while_const", "while_init", "branch_in", "manual_in"}
)
_STACKING = frozenset({"scan_xs", "scan_ys"})
_RENAMING = frozenset({"scan_const", "scan_xs", "while_const", "branch_in"})


@dataclass(slots=True)
class Node:
    """One decision: a layout for its classes.

    Attributes:
        id: position in `Graph.nodes`.
        classes: the classes that may be split here.
        tensors: tensor ids whose layout this decides.
        ops: op ids that run under it.
        own: the op id if this is one heavy op's own node.
        use_of: the tensor id if this is a shared use of it, with its op lifetime.
        taken: mesh axes that may split nothing here, being spoken for.
    """

    id: int
    classes: tuple[int, ...] = ()
    tensors: list[int] = field(default_factory=list)
    ops: list[int] = field(default_factory=list)
    own: int | None = None
    use_of: int | None = None
    span: tuple[int, int] = (0, 0)
    taken: Taken | None = None


@dataclass(frozen=True, slots=True)
class Flow:
    """A tensor passing from one node to another.

    Attributes:
        tensor: id.
        src, dst: node ids.
        src_dims, dst_dims: class of each of the tensor's dimensions on either side.
        partial: reduction classes of the source op: an axis on one leaves partial results.
        region: where the reshard would run.
        at: op id at which it happens.
        places: where its constraint goes; several for a shared use.
        end: op id until which a resharded copy is needed.
        into: what reads it, for people: "parameter", "gradient", "operand", "result", ...
    """

    tensor: int
    src: int
    dst: int
    src_dims: Dims
    dst_dims: Dims
    partial: tuple[tuple[int, Combiner], ...]
    region: int
    at: int
    places: tuple[Place, ...]
    end: int
    into: str


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum (or the like) made inside a node: splitting what it sums over leaves partial results.

    Attributes:
        op, node, tensor: ids of the op, of its node, and of the result.
        dims: class of each of the result's dimensions.
        partial: the classes summed over.
    """

    op: int
    node: int
    tensor: int
    dims: Dims
    partial: tuple[tuple[int, Combiner], ...]


@dataclass(frozen=True)
class Graph:
    """All decisions of a program; independent of any mesh.

    Attributes:
        program: what was analysed.
        nodes: the decisions.
        flows: tensors between them.
        sums: sums within them.
        size: per class, what the number of shards must divide.
        node_of: tensor id -> node id.
        dims: tensor id -> class per dimension, in its own node.
        op_node: op id -> node id.
        op_classes: op id -> class per factor.
        rest: input index -> node id of the leaf at rest (the tensor's own node).
        out_node: output index -> (node, dims) that the leaf leaves in.
    """

    program: Program
    nodes: tuple[Node, ...]
    flows: tuple[Flow, ...]
    sums: tuple[Sum, ...]
    size: dict[int, int]
    node_of: tuple[int, ...]
    dims: tuple[Dims, ...]
    op_node: tuple[int, ...]
    op_classes: tuple[tuple[int | None, ...], ...]
    out_node: tuple[tuple[int, Dims] | None, ...]


def build_graph(program: Program) -> Graph:
    """Find classes, nodes and flows. Nearly linear in the size of the program."""
    return _Builder(program).build()


def classes_of(factors: Dims, dims: tuple[int | None, ...]) -> Dims:
    """The class of each dimension, from the op's class per factor and the factor per dimension."""
    return tuple([None if f is None else factors[f] for f in dims])


def _summed(op: Op, factors: Dims) -> tuple[tuple[int, Combiner], ...]:
    """The classes an op sums over, and how."""
    return tuple(
        (c, f.combiner)
        for f, c in zip(op.rule.factors, factors, strict=True)
        if c is not None and f.combiner is not None
    )


def _parameters(program: Program) -> set[int]:
    """Parameters at rest, and the same seen from inside loops and branches."""
    found = {x.tensor for x in program.inputs if x.role is Role.PARAMETER and x.tensor is not None}
    for op in program.ops:
        if op.kind in _RENAMING and op.inputs[0] in found:
            found.update(op.outputs)
    return found


def _taken(program: Program) -> list[Taken | None]:
    """Per tensor, the mesh axes that are spoken for where it is made."""
    found: list[Taken | None] = [None] * len(program.tensors)
    for op in program.ops:
        for out in op.outputs:
            found[out] = program.regions[op.region].taken
    return found


class _Union:
    """Union-find."""

    def __init__(self) -> None:
        self.parent: list[int] = []

    def new(self) -> int:
        self.parent.append(len(self.parent))
        return len(self.parent) - 1

    def find(self, x: int) -> int:
        while self.parent[x] != x:
            self.parent[x] = self.parent[self.parent[x]]
            x = self.parent[x]
        return x

    def join(self, a: int, b: int) -> int:
        """Merge; returns the surviving root, which is `a`'s."""
        a, b = self.find(a), self.find(b)
        self.parent[b] = a
        return a


class _Builder:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.classes = _Union()
        self.owners: dict[int, set[int]] = {}  # class root -> owners (tensor t: 2t, op o: 2o+1)
        self.size: dict[int, int] = {}
        self.whole: set[int] = set()  # class roots that must not be split
        self.node = _Union()
        self.tensor_node = [self.node.new() for _ in program.tensors]
        self.op_node_id = [self.node.new() for _ in program.ops]
        self.tensor_dims: list[Dims] = []
        self.flows: list[Flow] = []
        self.joints: list[tuple[Op, int, int | None]] = []  # op, tensor, operand (None: a result)
        self.maker = {out: op.kind for op in program.ops for out in op.outputs}
        self.light = [self._is_light(op) for op in program.ops]

    def _class(self, size: int, owner: int) -> int:
        c = self.classes.new()
        self.owners[c], self.size[c] = {owner}, size
        return c

    def _tie(self, pairs: list[tuple[int, int]]) -> bool:
        """Tie classes pairwise, all or none; False when one would stand twice on some owner."""
        find, owners = self.classes.find, self.owners
        roots = [(find(a), find(b)) for a, b in pairs]
        for a, b in roots:
            if a != b and not owners[a].isdisjoint(owners[b]):
                return False
        for a, b in roots:
            a, b = find(a), find(b)
            if a == b:
                continue
            if len(self.owners[a]) < len(self.owners[b]):
                a, b = b, a
            self.classes.join(a, b)
            self.owners[a] |= self.owners.pop(b)
            self.size[a] = gcd(self.size[a], self.size.pop(b))
            if b in self.whole:
                self.whole.add(a)
        return True

    def build(self) -> Graph:
        program = self.program
        for tensor in program.tensors:
            dims = tuple(self._class(s, 2 * tensor.id) if s > 1 else None for s in tensor.shape)
            self.tensor_dims.append(dims)
        parameters = _parameters(program)
        update = update_ops(program)
        made_in_update = {out for o in update for out in program.ops[o].outputs}
        state_inputs = {program.inputs[i].tensor for _, i in program.aliases}
        op_classes: list[tuple[int | None, ...]] = []
        broken: list[tuple[Op, int]] = []
        for op in program.ops:
            factors = tuple(
                self._class(f.size, 2 * op.id + 1) if f.size > 1 else None for f in op.rule.factors
            )
            op_classes.append(factors)
            for f, c in zip(op.rule.factors, factors, strict=True):
                if c is not None and f.kind is FactorKind.WHOLE:
                    self.whole.add(c)
            light = self.light[op.id]
            if light:
                for k, out in enumerate(op.outputs):
                    if self._tie_operand(op, factors, op.rule.results[k], out):
                        self.joints.append((op, out, None))
                if op.kind in _STACKING:
                    self._bar_stack(op)
            operands = list(enumerate(op.inputs))
            if op.kind.endswith("_carry"):
                operands.reverse()  # what a loop carries has one layout; its new value may not
            for k, t in operands:
                if t is None:
                    continue
                is_gradient = op.id in update and t not in made_in_update and t not in state_inputs
                edge = (
                    not light
                    or (t in parameters and op.kind not in _RENAMING)
                    or (is_gradient and op.rule.op_class is OpClass.FUSIBLE)
                    or op.kind == "scan_init"
                )
                if edge or not self._tie_operand(op, factors, op.rule.operands[k], t):
                    broken.append((op, k))
                else:
                    self.joints.append((op, t, k))
        broken += self._break_strangers(op_classes)
        broken.sort(key=lambda use: use[0].id)
        return self._finish(op_classes, broken)

    def _split(self) -> Dims:
        """What each class has become part of; None for what must not be split."""
        find = self.classes.find
        whole = {find(c) for c in self.whole}
        roots = map(find, range(len(self.classes.parent)))
        return tuple([None if root in whole else root for root in roots])

    def _break_strangers(self, op_classes: list[Dims]) -> list[tuple[Op, int]]:
        """Break nodes with classes that meet nowhere, where the least is shared.

        Returns:
            The operands at which they broke.
        """
        split = self._split()

        def split_of(classes: Dims) -> set[int]:
            return {root for c in classes if c is not None and (root := split[c]) is not None}

        tensor_classes = [split_of(dims) for dims in self.tensor_dims]
        factor_classes = [split_of(factors) for factors in op_classes]
        held: dict[int, set[int]] = {}
        for own, classes in (
            *zip(self.tensor_node, tensor_classes, strict=True),
            *zip(self.op_node_id, factor_classes, strict=True),
        ):
            held.setdefault(self.node.find(own), set()).update(classes)
        torn = {root for root, classes in held.items() if self._has_strangers(classes)}
        if not torn:
            return []
        joints = [x for x in self.joints if self.node.find(self.op_node_id[x[0].id]) in torn]
        for op, tensor, _ in joints:
            self.op_node_id[op.id], self.tensor_node[tensor] = self.node.new(), self.node.new()
        held = {}
        for op, tensor, _ in joints:
            held[self.op_node_id[op.id]] = set(factor_classes[op.id])
            held[self.tensor_node[tensor]] = set(tensor_classes[tensor])
        # A result lies as its op does; after that, what shares most holds together first.
        joints.sort(
            key=lambda x: (x[2] is not None, -len(factor_classes[x[0].id] & tensor_classes[x[1]]))
        )
        broken: list[tuple[Op, int]] = []
        for op, tensor, k in joints:
            a, b = self.node.find(self.op_node_id[op.id]), self.node.find(self.tensor_node[tensor])
            if a == b:
                continue
            if k is not None and self._has_strangers(held[a] | held[b]):
                broken.append((op, k))
                continue
            held[self.node.join(a, b)] = held[a] | held[b]
        return broken

    def _has_strangers(self, classes: set[int]) -> bool:
        """Whether two classes meet in no tensor and no op."""
        return any(self.owners[a].isdisjoint(self.owners[b]) for a, b in combinations(classes, 2))

    def _is_light(self, op: Op) -> bool:
        """Whether an op shares its results' node: cheap, and needs no dimension whole."""
        if not op.rule.op_class.is_light or op.pinned is not None or op.manual is not None:
            return False
        if op.kind in _STACKING:
            return True
        if self._sums_shards(op):
            return False
        if any(f.kind is FactorKind.WHOLE and f.size > 1 for f in op.rule.factors):
            return False
        shapes = [self.program.tensors[t].shape if t is not None else () for t in op.inputs]
        for shape, dims in zip(shapes, op.rule.operands, strict=False):
            if any(s > 1 and d is None for s, d in zip(shape, dims, strict=False)):
                return False
        for out, dims in zip(op.outputs, op.rule.results, strict=True):
            shape = self.program.tensors[out].shape
            if any(s > 1 and d is None for s, d in zip(shape, dims, strict=True)):
                return False
        return True

    def _sums_shards(self, op: Op) -> bool:
        """Whether an op adds up what code for one shard made on each: a sum left pending for us."""
        source = op.inputs[0] if op.inputs else None
        summed = any(f.combiner is not None for f in op.rule.factors)
        return summed and source is not None and self.maker.get(source) == "manual_out"

    def _tie_operand(
        self, op: Op, factors: tuple[int | None, ...], dims: tuple[int | None, ...], tensor: int
    ) -> bool:
        """Tie a tensor's dimensions to the op's factors and put both in one node."""
        pairs: list[tuple[int, int]] = []
        for c, f in zip(self.tensor_dims[tensor], dims, strict=True):
            factor = None if f is None else factors[f]
            if c is not None and factor is not None:
                pairs.append((factor, c))
        if not self._tie(pairs):
            return False
        if pairs:
            self.node.join(self.op_node_id[op.id], self.tensor_node[tensor])
        return True

    def _bar_stack(self, op: Op) -> None:
        """The stacked dimension of a loop's inputs and results is never split."""
        tensors = op.inputs[:1] if op.kind == "scan_xs" else op.outputs[:1]
        for t in tensors:
            if t is not None and self.tensor_dims[t] and self.tensor_dims[t][0] is not None:
                self.whole.add(self.classes.find(self.tensor_dims[t][0]))  # type: ignore[arg-type]

    # -- from union-find to nodes and flows --------------------------------------------------

    def _finish(
        self, op_classes: list[tuple[int | None, ...]], broken: list[tuple[Op, int]]
    ) -> Graph:
        program = self.program
        find = self.classes.find
        split = self._split()

        def live(dims: Dims) -> Dims:
            return tuple([None if c is None else split[c] for c in dims])

        dims = [live(d) for d in self.tensor_dims]
        factors = [live(f) for f in op_classes]
        ids: dict[int, int] = {}
        nodes: list[Node] = []

        def node(x: int) -> Node:
            root = self.node.find(x)
            if root not in ids:
                ids[root] = len(nodes)
                nodes.append(Node(len(nodes)))
            return nodes[ids[root]]

        members: dict[int, set[int]] = {}
        node_of: list[int] = []
        for t in program.tensors:
            n = node(self.tensor_node[t.id])
            n.tensors.append(t.id)
            members.setdefault(n.id, set()).update(c for c in dims[t.id] if c is not None)
            node_of.append(n.id)
        op_node: list[int] = []
        for op in program.ops:
            n = node(self.op_node_id[op.id])
            n.ops.append(op.id)
            if not self.light[op.id]:
                n.own = op.id
            members.setdefault(n.id, set()).update(c for c in factors[op.id] if c is not None)
            op_node.append(n.id)

        size = {find(c): s for c, s in self.size.items()}
        out_node = self._flow_outputs(dims, node_of)
        self._flow_operands(broken, nodes, members, dims, node_of, factors, op_node, size)
        self._flow_results(dims, node_of, factors, op_node)
        taken = _taken(program)
        for n in nodes:
            n.classes = tuple(sorted(members.get(n.id, ())))
            inside = (taken[t] for t in (*n.tensors, *([] if n.use_of is None else [n.use_of])))
            # The boundary's own op knows by itself; its layout is the author's.
            here = (program.regions[program.ops[o].region].taken for o in n.ops)
            own = n.own is not None and program.ops[n.own].manual is not None
            n.taken = None if own else next((x for x in (*inside, *here) if x is not None), None)
        return Graph(
            program=program,
            nodes=tuple(nodes),
            flows=tuple(self.flows),
            sums=tuple(self._sums(factors, op_node)),
            size=size,
            node_of=tuple(node_of),
            dims=tuple(dims),
            op_node=tuple(op_node),
            op_classes=tuple(factors),
            out_node=tuple(out_node),
        )

    def _flow_outputs(self, dims: list[Dims], node_of: list[int]) -> list[tuple[int, Dims] | None]:
        """State leaves in the layout its input has at rest; other outputs as they come."""
        program = self.program
        source = dict(program.aliases)
        out: list[tuple[int, Dims] | None] = []
        for k, leaf in enumerate(program.outputs):
            t = leaf.tensor
            if t is None:
                out.append(None)
                continue
            twin = program.inputs[source[k]].tensor if k in source else None
            rest = t if twin is None else twin
            out.append((node_of[rest], dims[rest]))
            if twin is None or (node_of[t] == node_of[twin] and dims[t] == dims[twin]):
                continue
            self.flows.append(
                Flow(
                    tensor=t,
                    src=node_of[t],
                    dst=node_of[twin],
                    src_dims=dims[t],
                    dst_dims=dims[twin],
                    partial=(),
                    region=0,
                    at=len(program.ops),
                    places=(Place("", f"output {k}"),),
                    end=len(program.ops),
                    into="new state",
                )
            )
        return out

    def _use_region(self, op: Op) -> int:
        """Where an operand is read: outside the loop for what enters it."""
        return self.program.regions[op.region].parent if op.kind in _ENTER else op.region

    def _flow_operands(
        self,
        broken: list[tuple[Op, int]],
        nodes: list[Node],
        members: dict[int, set[int]],
        dims: list[Dims],
        node_of: list[int],
        factors: list[Dims],
        op_node: list[int],
        size: dict[int, int],
    ) -> None:
        by_tensor: dict[int, list[tuple[Op, int]]] = {}
        for op, k in broken:
            t = op.inputs[k]
            if t is not None and any(c is not None for c in self.tensor_dims[t]):
                by_tensor.setdefault(t, []).append((op, k))
        for t, uses in by_tensor.items():
            for group in self._bursts(uses):
                src, src_dims = node_of[t], dims[t]
                places = tuple(op.in_place(k) for op, k in group)
                first, last = group[0][0], group[-1][0]
                if len(group) > 1:
                    shared = Node(len(nodes), use_of=t, span=(first.id, last.id))
                    nodes.append(shared)
                    fresh: list[int | None] = []
                    for c in src_dims:
                        if c is None:
                            fresh.append(None)
                            continue
                        new = self.classes.new()
                        size[new] = size[c]
                        fresh.append(new)
                    members[shared.id] = {c for c in fresh if c is not None}
                    self.flows.append(
                        Flow(
                            tensor=t,
                            src=src,
                            dst=shared.id,
                            src_dims=src_dims,
                            dst_dims=tuple(fresh),
                            partial=(),
                            region=self._use_region(first),
                            at=first.id,
                            places=places,
                            end=last.id,
                            into="shared use",
                        )
                    )
                    src, src_dims = shared.id, tuple(fresh)
                for op, k in group:
                    dst_dims = classes_of(factors[op.id], op.rule.operands[k])
                    self.flows.append(
                        Flow(
                            tensor=t,
                            src=src,
                            dst=op_node[op.id],
                            src_dims=src_dims,
                            dst_dims=dst_dims,
                            partial=(),
                            region=self._use_region(op),
                            at=op.id,
                            places=(op.in_place(k),),
                            end=op.id,
                            into="operand",
                        )
                    )

    def _bursts(self, uses: list[tuple[Op, int]]) -> list[list[tuple[Op, int]]]:
        """Reads that stand close together in one region."""
        groups: list[list[tuple[Op, int]]] = []
        for op, k in uses:
            if groups:
                previous = groups[-1][-1][0]
                region = self._use_region(op)
                # In a loop or remat block XLA finds equal reshards of one value and does one;
                # copies are small there, and gone with the round.
                near = region != 0 or op.id - previous.id <= _SHARING_DISTANCE
                if near and self._use_region(previous) == region:
                    groups[-1].append((op, k))
                    continue
            groups.append([(op, k)])
        return groups

    def _sums(self, factors: list[Dims], op_node: list[int]) -> Iterator[Sum]:
        for op in self.program.ops:
            if not self.light[op.id] or not (partial := _summed(op, factors[op.id])):
                continue
            for out, dims in zip(op.outputs, op.rule.results, strict=True):
                yield Sum(op.id, op_node[op.id], out, classes_of(factors[op.id], dims), partial)

    def _flow_results(
        self, dims: list[Dims], node_of: list[int], factors: list[Dims], op_node: list[int]
    ) -> None:
        for op in self.program.ops:
            if self.light[op.id]:
                continue
            partial = _summed(op, factors[op.id])
            for k, out in enumerate(op.outputs):
                if node_of[out] == op_node[op.id]:
                    continue
                src_dims = classes_of(factors[op.id], op.rule.results[k])
                if not partial and all(c is None for c in (*src_dims, *dims[out])):
                    continue
                self.flows.append(
                    Flow(
                        tensor=out,
                        src=op_node[op.id],
                        dst=node_of[out],
                        src_dims=src_dims,
                        dst_dims=dims[out],
                        partial=partial,
                        region=op.region,
                        at=op.id,
                        places=(op.out_place(k),),
                        end=op.id,
                        into="result",
                    )
                )
