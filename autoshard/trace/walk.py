"""From jaxpr to program: one pass over the equations, bodies spliced in place.

`jit`, `custom_jvp/vjp` and other bodies that run exactly once are inlined. `scan`, `while`,
`cond` and `remat` become regions; their boundaries become ops (`scan_xs`, `scan_carry`, ...)
with identity rules, so that layouts flow through them like through anything else. So does a
`shard_map` that leaves axes of its mesh to the compiler.

The key of an equation (`Op.at`) is its index, prefixed by the keys of the equations around it:
"12/3" is the fourth equation in the body of the thirteenth. Branches of `cond` add "b0", "b1";
the two bodies of `while` add "c" and "b". `autoshard.execute.replay` walks the same way.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from autoshard import _compat
from autoshard.errors import IntentError
from autoshard.program.ir import Manual, Op, Place, Region, Taken, Tensor
from autoshard.program.rule import OpClass, Rule
from autoshard.rules.base import OpView
from autoshard.rules.boundary import identity, scan_xs, scan_ys
from autoshard.rules.manual import crossing, manual_axes, sent_over
from autoshard.rules.registry import rule_for
from autoshard.trace.choices import Table, slowest, table
from autoshard.trace.source import own_line, user_line

Value = int | None  # a tensor id, or None for a literal
Pinned = tuple[tuple[str, ...] | None, ...] | None


def _mesh(sizes: dict[str, int]) -> str:
    return " x ".join(f"{name} {size}" for name, size in sizes.items())


class Walker:
    """Collects tensors, ops and regions while walking a jaxpr."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.ops: list[Op] = []
        self.regions: list[Region] = [Region(0, 0, "top")]
        self.mesh_sizes: dict[str, int] = {}
        self.manual_sizes: dict[str, int] = {}
        self._rules: dict[Hashable, Rule] = {}
        # Tensors whose values are known.
        self._tables: dict[int, Table] = {}
        # The user's line that the equation at hand, or the innermost around it that has one, has.
        self._line = ""

    @property
    def own_mesh(self) -> tuple[tuple[str, int], ...]:
        """Axes and sizes of the mesh that the user speaks of; `Program.mesh_sizes`."""
        return tuple((self.mesh_sizes or self.manual_sizes).items())

    def tensor(self, aval: Any) -> int:
        """A new tensor with an aval's shape and dtype."""
        shape = tuple(int(d) for d in getattr(aval, "shape", ()))
        dtype = getattr(aval, "dtype", None)
        id = len(self.tensors)
        self.tensors.append(Tensor(id, shape, dtype_name(dtype), itemsize_bytes(dtype)))
        return id

    def constant(self, aval: Any, value: Any) -> int:
        """A new tensor that holds a constant of the whole program."""
        id = self.tensor(aval)
        self._note(id, table(value))
        return id

    def _note(self, tensor: int, known: Table | None) -> None:
        if known is not None:
            self._tables[tensor] = known

    def _rule(self, eqn: _compat.JaxprEqn) -> Rule:
        """The rule of an equation; equal equations of unrolled layers share one."""
        seen = view(eqn)
        try:
            key = (
                *(seen.kind, seen.in_shapes, seen.in_dtypes, seen.out_shapes, seen.out_dtypes),
                tuple(seen.params.items()),
            )
            known = self._rules.get(key)
        except TypeError:  # parameters that are no values
            return rule_for(seen)
        if known is None:
            known = self._rules[key] = rule_for(seen)
        return known

    def _shape(self, tensor: int) -> tuple[int, ...]:
        return self.tensors[tensor].shape

    def _region(self, parent: int, kind: str, at: str, trips: int = 1, known: bool = True) -> int:
        id = len(self.regions)
        taken = self.regions[parent].taken
        self.regions.append(Region(id, parent, kind, trips, known, at, taken))
        return id

    def _op(
        self,
        kind: str,
        inputs: Sequence[Value],
        outputs: Sequence[int],
        rule: Rule,
        region: int,
        at: str,
        eqn: _compat.JaxprEqn,
        in_places: tuple[Place, ...] = (),
        out_places: tuple[Place, ...] = (),
        pinned: Pinned = None,
        manual: Manual | None = None,
        over: tuple[str, ...] = (),
    ) -> None:
        self.ops.append(
            Op(
                id=len(self.ops),
                kind=kind,
                inputs=tuple(inputs),
                outputs=tuple(outputs),
                rule=rule,
                region=region,
                at=at,
                source=self._line or user_line(eqn),
                scope=_compat.name_stack(eqn),
                in_places=in_places,
                out_places=out_places,
                pinned=pinned,
                manual=manual,
                over=over,
            )
        )

    def walk(
        self,
        jaxpr: _compat.Jaxpr,
        consts: Sequence[Value],
        args: Sequence[Value],
        region: int = 0,
        prefix: str = "",
    ) -> list[Value]:
        """Walk one jaxpr; returns the values of its results."""
        env: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Value:
            return None if isinstance(atom, _compat.Literal) else env[atom]

        for index, eqn in enumerate(jaxpr.eqns):
            at = f"{prefix}{index}"
            values = [read(v) for v in eqn.invars]
            around = self._line
            self._line = own_line(eqn) or around
            outs = self._eqn(eqn, values, region, at)
            self._line = around
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _eqn(
        self, eqn: _compat.JaxprEqn, values: list[Value], region: int, at: str
    ) -> Sequence[Value]:
        name = eqn.primitive.name
        inlined = _compat.inlined_body(eqn)
        if inlined is not None:
            body, consts, operands = inlined
            return self._inline(eqn, body, consts, [values[k] for k in operands], region, at)
        if name in _compat.REMAT_BODIES:
            inner = self._region(region, "remat", at)
            body, consts = _compat.open_body(eqn.params["jaxpr"])
            return self._inline(eqn, body, consts, values, inner, at)
        if name == "scan":
            return self._scan(eqn, values, region, at)
        if name == "while":
            return self._while(eqn, values, region, at)
        if name == "cond":
            return self._cond(eqn, values, region, at)
        if name == "shard_map" and _compat.leaves_axes(eqn):
            return self._stages(eqn, values, region, at)
        outs = [self.tensor(v.aval) for v in eqn.outvars]
        pinned = self._pinned(eqn) if name in _compat.CONSTRAINTS else None
        manual = self._manual(eqn) if name == "shard_map" else None
        over = sent_over(name, eqn.params) if self.regions[region].taken is not None else ()
        rule = self._rule(eqn)
        self._op(name, values, outs, rule, region, at, eqn, pinned=pinned, manual=manual, over=over)
        for value in values:
            if value in self._tables:
                self._note(outs[0], self._tables[value].through(eqn))
        return outs

    def _taken(self, eqn: _compat.JaxprEqn) -> Taken:
        sizes = _compat.sizes_of(eqn.params["mesh"])
        self.manual_sizes = self.manual_sizes or sizes
        return Taken(tuple(sorted(_compat.manual_axes(eqn))), tuple(sizes.items()))

    def _manual(self, eqn: _compat.JaxprEqn) -> Manual:
        return Manual(manual_axes(eqn.params), self._taken(eqn))

    def _stages(
        self, eqn: _compat.JaxprEqn, values: list[Value], region: int, at: str
    ) -> list[Value]:
        """Code for one shard that leaves some axes to us: a region, in which they are to be had."""
        taken, p = self._taken(eqn), eqn.params
        inner = self._region(region, "manual", at)
        self.regions[inner] = replace(self.regions[inner], taken=taken)
        jaxpr, consts = _compat.open_body(p["jaxpr"])
        const_ids = [self._constant(c, inner, at, eqn) for c in consts]
        args: list[Value] = []
        for k, (value, var) in enumerate(zip(values, jaxpr.invars, strict=True)):
            inside = self.tensor(var.aval)
            args.append(inside)
            rule, axes = crossing(_shape_of(eqn.invars[k]), p["in_specs"][k], p, enters=True)
            use, define = (Place(at, f"operand {k}"),), (Place(at, f"in {k}"),)
            manual = Manual(axes, taken)
            self._op(
                *("manual_in", (value,), (inside,), rule, inner, at, eqn, use, define),
                manual=manual,
            )
            if value in self._tables and not self._tables[value].over:
                shards = _shape_of(eqn.invars[k])[0] // _shape_of(var)[0]
                self._note(inside, self._tables[value].shards(shards))
        results = self.walk(jaxpr, const_ids, args, inner, f"{at}/")
        outs: list[Value] = []
        for k, (value, var) in enumerate(zip(results, eqn.outvars, strict=True)):
            out = self.tensor(var.aval)
            outs.append(out)
            rule, axes = crossing(_shape_of(var), p["out_specs"][k], p, enters=False)
            use, define = (Place(at, f"out {k}"),), (Place(at, f"result {k}"),)
            manual = Manual(axes, taken)
            self._op(
                *("manual_out", (value,), (out,), rule, region, at, eqn, use, define),
                manual=manual,
            )
        return outs

    def _pinned(self, eqn: _compat.JaxprEqn) -> Pinned:
        """What a user's own constraint says.

        Raises:
            IntentError: two constraints speak of meshes that differ.
        """
        said = _compat.constrained_dims(eqn)
        if said is None:
            return None
        dims, sizes = said
        if self.mesh_sizes and sizes != self.mesh_sizes:
            raise IntentError(
                f"{user_line(eqn)}: a sharding constraint on a mesh {_mesh(sizes)}, after others on"
                f" a mesh {_mesh(self.mesh_sizes)}: a program is laid out on one mesh"
            )
        self.mesh_sizes = sizes
        return dims

    def _inline(
        self,
        eqn: _compat.JaxprEqn,
        jaxpr: _compat.Jaxpr,
        consts: Sequence[Any],
        values: list[Value],
        region: int,
        at: str,
    ) -> list[Value]:
        const_ids = [self._constant(c, region, at, eqn) for c in consts]
        return self.walk(jaxpr, const_ids, values, region, f"{at}/")

    def _constant(self, value: Any, region: int, at: str, eqn: _compat.JaxprEqn) -> Value:
        """A constant of an inner jaxpr: whole on every device, no decision."""
        shape, dtype, _ = _compat.abstract(value)
        id = len(self.tensors)
        self.tensors.append(Tensor(id, shape, dtype_name(dtype), itemsize_bytes(dtype)))
        self._note(id, table(value))
        rule = Rule((), (), ((None,) * len(shape),), OpClass.FREE)
        self._op("constant", (), (id,), rule, region, "", eqn)
        return id

    def _identity(
        self,
        kind: str,
        source: Value,
        result: int,
        region: int,
        eqn: _compat.JaxprEqn,
        use: Place,
        define: Place,
    ) -> None:
        if source in self._tables and kind not in ("scan_init", "while_init"):
            self._note(result, self._tables[source])
        rule = identity(self._shape(result))
        self._op(kind, (source,), (result,), rule, region, use.at, eqn, (use,), (define,))

    def _scan(
        self, eqn: _compat.JaxprEqn, values: list[Value], region: int, at: str
    ) -> list[Value]:
        p = eqn.params
        (n_consts, n_carry), length = _compat.scan_counts(p), int(p["length"])
        jaxpr, consts = _compat.open_body(p["jaxpr"])
        inner = self._region(region, "scan", at, length)
        const_ids = [self._constant(c, region, at, eqn) for c in consts]
        args: list[Value] = []
        for k, (value, var) in enumerate(zip(values, jaxpr.invars, strict=True)):
            inside = self.tensor(var.aval)
            args.append(inside)
            use, define = Place(at, f"operand {k}"), Place(at, f"in {k}")
            if k < n_consts:
                self._identity("scan_const", value, inside, inner, eqn, use, define)
            elif k < n_consts + n_carry:
                self._identity("scan_init", value, inside, inner, eqn, use, define)
            else:
                stacked = _shape_of(eqn.invars[k])
                rule = scan_xs(stacked)
                self._op("scan_xs", (value,), (inside,), rule, inner, at, eqn, (use,), (define,))
                if value in self._tables:
                    self._note(inside, self._tables[value].slices())
        results = self.walk(jaxpr, const_ids, args, inner, f"{at}/")
        outs: list[Value] = []
        for k, (value, var) in enumerate(zip(results, eqn.outvars, strict=True)):
            out = self.tensor(var.aval)
            outs.append(out)
            use, define = Place(at, f"out {k}"), Place(at, f"result {k}")
            if k < n_carry:
                carry = args[n_consts + k]
                self._carry("scan_carry", value, carry, out, inner, eqn, use, define)
            else:
                rule = scan_ys(_shape_of(jaxpr.outvars[k]), length)
                self._op("scan_ys", (value,), (out,), rule, inner, at, eqn, (use,), (define,))
        return outs

    def _carry(
        self,
        kind: str,
        value: Value,
        carry: Value,
        out: int,
        region: int,
        eqn: _compat.JaxprEqn,
        use: Place,
        define: Place,
    ) -> None:
        """The end of a loop body: its result, the carry it becomes, and the loop's result."""
        one = identity(self._shape(out))
        rule = Rule(one.factors, one.operands * 2, one.results, one.op_class)
        # The carry operand is tied, never constrained: its place is never asked for.
        places = (use, define)
        self._op(kind, (value, carry), (out,), rule, region, use.at, eqn, places, (define,))

    def _while(
        self, eqn: _compat.JaxprEqn, values: list[Value], region: int, at: str
    ) -> list[Value]:
        p = eqn.params
        n_cond, n_body = p["cond_nconsts"], p["body_nconsts"]
        cond, cond_consts = _compat.open_body(p["cond_jaxpr"])
        body, body_consts = _compat.open_body(p["body_jaxpr"])
        inner = self._region(region, "while", at, 1, known=False)
        args: list[int] = []
        for k, value in enumerate(values):
            aval = eqn.invars[k].aval
            inside = self.tensor(aval)
            args.append(inside)
            inner_place = Place(f"{at}/b", f"in {k - n_cond}")
            define = Place(f"{at}/c", f"in {k}") if k < n_cond else inner_place
            kind = "while_const" if k < n_cond + n_body else "while_init"
            use = Place(at, f"operand {k}")
            self._identity(kind, value, inside, inner, eqn, use, define)
        carry = args[n_cond + n_body :]
        cond_ids = [self._constant(c, region, at, eqn) for c in cond_consts]
        body_ids = [self._constant(c, region, at, eqn) for c in body_consts]
        self.walk(cond, cond_ids, [*args[:n_cond], *carry], inner, f"{at}/c/")
        body_args = [*args[n_cond : n_cond + n_body], *carry]
        results = self.walk(body, body_ids, body_args, inner, f"{at}/b/")
        outs: list[Value] = []
        for k, (value, var) in enumerate(zip(results, eqn.outvars, strict=True)):
            out = self.tensor(var.aval)
            outs.append(out)
            use, define = Place(f"{at}/b", f"out {k}"), Place(at, f"result {k}")
            self._carry("while_carry", value, carry[k], out, inner, eqn, use, define)
        return outs

    def _cond(
        self, eqn: _compat.JaxprEqn, values: list[Value], region: int, at: str
    ) -> list[Value]:
        results: list[list[Value]] = []
        inners: list[int] = []
        for b, branch in enumerate(eqn.params["branches"]):
            jaxpr, consts = _compat.open_body(branch)
            here = f"{at}/b{b}"
            inner = self._region(region, "branch", here)
            inners.append(inner)
            const_ids = [self._constant(c, inner, at, eqn) for c in consts]
            args: list[Value] = []
            for k, (value, var) in enumerate(zip(values[1:], jaxpr.invars, strict=True)):
                inside = self.tensor(var.aval)
                args.append(inside)
                place = Place(here, f"in {k}")
                self._identity("branch_in", value, inside, inner, eqn, place, place)
            results.append(self.walk(jaxpr, const_ids, args, inner, f"{here}/"))
        self._share(values[0], inners)
        outs: list[Value] = []
        for k, var in enumerate(eqn.outvars):
            out = self.tensor(var.aval)
            outs.append(out)
            one = identity(self._shape(out))
            rule = Rule(one.factors, one.operands * len(results), one.results, one.op_class)
            uses = tuple(Place(f"{at}/b{b}", f"out {k}") for b in range(len(results)))
            inputs = [branch[k] for branch in results]
            define = (Place(at, f"result {k}"),)
            self._op("branch_out", inputs, (out,), rule, region, at, eqn, uses, define)
        return outs

    def _share(self, which: Value, inners: Sequence[int]) -> None:
        """Note how often branches are taken, where a table says which."""
        known = self._tables.get(-1 if which is None else which)
        found = known.taken(len(inners)) if known is not None else None
        if found is None:
            return
        counts, trips = found
        flops = [self._flops(inner) for inner in inners]
        for inner, n in zip(inners, slowest(counts, flops), strict=True):
            self.regions[inner] = replace(self.regions[inner], share=(n, trips))

    def _flops(self, region: int) -> float:
        """Of a region and those inside it, each time that it runs."""
        times = {region: 1}
        for r in self.regions[region + 1 :]:
            if r.parent in times:
                times[r.id] = times[r.parent] * r.trip_count
        return sum(op.rule.flops * times[op.region] for op in self.ops if op.region in times)


def _shape_of(atom: Any) -> tuple[int, ...]:
    return tuple(atom.aval.shape)


@functools.lru_cache(maxsize=256)
def dtype_name(dtype: Any) -> str:
    """What JAX calls a dtype."""
    return str(dtype)


@functools.lru_cache(maxsize=256)
def itemsize_bytes(dtype: Any) -> float:
    """Bytes an element occupies on a device; keys are two 32-bit words, sub-byte types packed."""
    name = str(dtype)
    if name.startswith("key<"):
        return 16.0 if "rbg" in name else 8.0
    if name in _SUB_BYTE:
        return _SUB_BYTE[name]
    return float(getattr(dtype, "itemsize", 0))


_SUB_BYTE = {"int4": 0.5, "uint4": 0.5, "int2": 0.25, "uint2": 0.25, "float4_e2m1fn": 0.5}


def view(eqn: _compat.JaxprEqn) -> OpView:
    """What a sharding rule sees of an equation."""

    def shapes(atoms: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(getattr(a.aval, "shape", ())) for a in atoms)

    def dtypes(atoms: Sequence[Any]) -> tuple[str, ...]:
        return tuple(dtype_name(getattr(a.aval, "dtype", "")) for a in atoms)

    return OpView(
        kind=eqn.primitive.name,
        in_shapes=shapes(eqn.invars),
        in_dtypes=dtypes(eqn.invars),
        out_shapes=shapes(eqn.outvars),
        out_dtypes=dtypes(eqn.outvars),
        params=eqn.params,
    )
