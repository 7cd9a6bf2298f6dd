"""Scanned layers as a pipeline: stages of layers on the axis `pipe`, microbatches passed along.

The loops that `layers` finds become loops over ticks in a `shard_map` over `pipe` and `data`: every
stage runs its own layers on one microbatch per tick and hands the carry to the next. Everything
else stays as it is. Sums over the batch leave the stages as one term per shard of `data`, added up
outside, where the plan decides how.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoshard import _compat
from autoshard.errors import PipelineError
from autoshard.plan.pipeline import Pipeline
from autoshard.schedules import ONE_F_ONE_B
from autoshard.trace.function import Traced, rewritten
from autoshard.trace.pipeline import gpipe, onef1b
from autoshard.trace.pipeline.layers import Layers
from autoshard.trace.pipeline.loop import Loop, Loops, Passage, all_loops
from autoshard.trace.pipeline.stages import Entered
from autoshard.trace.source import user_line
from autoshard.trace.surgery import readers, value_of, variables


def pipelined(layers: Layers, pipe: Pipeline) -> Traced:
    """A step with its layers cut into stages.

    Args:
        layers: its loops over layers.
        pipe: how they are cut.

    Raises:
        PipelineError: the batch does not divide, there are fewer layers than stages, or what comes
            between the loops does not let one microbatch through.
    """
    _check(layers, pipe)
    program = _Program(layers.closed, layers.loops, pipe)
    avals = [v.aval for v in layers.closed.jaxpr.invars]
    closed = _compat.without_dead_code(_compat.retrace(lambda *args: program.run(args), avals))
    return rewritten(layers.traced, closed, (*layers.notes, *_notes(layers, pipe)))


def _check(layers: Layers, pipe: Pipeline) -> None:
    pieces = pipe.microbatches * pipe.data
    if layers.batch % pieces:
        raise PipelineError(
            f"a batch of {layers.batch} does not divide into {pipe.microbatches} microbatches on"
            f" each of {pipe.data} shards"
        )
    for loop in all_loops(layers.loops):
        if any(size % pieces for size in loop.batches):
            raise PipelineError(
                f"the layers at {user_line(loop.big)} run on parts of the batch that do not"
                f" divide into {pipe.microbatches} microbatches on each of {pipe.data} shards"
            )
        if loop.big.params["length"] < pipe.stages * pipe.chunks:
            chunks = f" of {pipe.chunks} chunks" if pipe.chunks > 1 else ""
            raise PipelineError(
                f"the {loop.big.params['length']} layers at {user_line(loop.big)} are fewer"
                f" than {pipe.stages} stages{chunks}"
            )
    if pipe.schedule == ONE_F_ONE_B and layers.no_1f1b:
        raise PipelineError(f"no schedule 1f1b: {layers.no_1f1b}")


def _notes(layers: Layers, pipe: Pipeline) -> Iterator[str]:
    lengths = {user_line(loop.big): loop.big.params["length"] for loop in all_loops(layers.loops)}
    for line, length in lengths.items():
        counts = [n for n in pipe.layers_of(length) if n]
        of = f"{counts[0]}" if len({*counts}) == 1 else ", ".join(map(str, counts))
        yield (
            f"pipeline: the {length} layers at {line} are {pipe.stages} stages of {of},"
            f" each run on {pipe.microbatches} microbatches of"
            f" {_counted(layers.batch // (pipe.microbatches * pipe.data), 'example')}"
        )
    if pipe.dealt:
        yield (
            f"pipeline: what comes after the layers is done for {pipe.stages} microbatches at once,"
            " one on each stage"
        )


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


@dataclass
class _Program:
    """A step with some of its loops pipelined.

    Attributes:
        closed: as it was.
        loops: by the index of their equation.
        pipe: how.
        entered: what came in for some of them.
    """

    closed: _compat.ClosedJaxpr
    loops: Mapping[int, Loops]
    pipe: Pipeline
    entered: Entered = field(default_factory=dict)

    def run(self, args: Sequence[Any]) -> list[Any]:
        """Evaluate it."""
        jaxpr = self.closed.jaxpr
        env: dict[Any, Any] = dict(zip(jaxpr.constvars, self.closed.consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        # What is read tick by tick: variable -> [ticks, layers, ...].
        ticked: dict[Any, Any] = {}
        for i in self._order():
            self._run(i, env, ticked)
        return [value_of(v, env) for v in jaxpr.outvars]

    def _run(self, i: int, env: dict[Any, Any], ticked: dict[Any, Any]) -> None:
        eqn, loop = self.closed.jaxpr.eqns[i], self.loops.get(i)
        with _compat.as_if_traced_at(eqn):
            if not isinstance(loop, Loop):
                params = dict(eqn.params) if loop is None else self._around(eqn, loop)
                outs = _compat.bind(eqn, [value_of(v, env) for v in eqn.invars], params)
                env.update(zip(eqn.outvars, outs, strict=True))
            elif (passage := self._fused.get(i)) is not None:
                self._one_by_one(i, loop, passage, env)
            else:
                values = _operands(loop, env) | {k: ticked[eqn.invars[k]] for k in loop.ticked}
                made, kept = gpipe.run(loop, self.pipe, values, self.entered)
                env.update((eqn.outvars[k], value) for k, value in made.items())
                ticked.update((eqn.outvars[k], value) for k, value in kept.items())

    @property
    def _fused(self) -> dict[int, Passage]:
        """By the index of the backward loop, what one microbatch goes through by itself."""
        if self.pipe.schedule != ONE_F_ONE_B:
            return {}
        loops = ((i, loop) for i, loop in self.loops.items() if isinstance(loop, Loop))
        return {i: loop.passage for i, loop in loops if loop.passage is not None}

    def _order(self) -> Iterator[int]:
        """Indices of the equations, as they are to be run.

        A forward loop that runs together with its mirror image waits for it, and what reads its
        results waits as well.
        """
        fused, eqns = self._fused, self.closed.jaxpr.eqns
        skipped = {
            i: back for back, x in fused.items() for i in (x.forward, *x.here_only)
        }  # to the index of what does them
        makers = {v: i for i, eqn in enumerate(eqns) for v in eqn.outvars}
        done, pending, waiting = set[int](), list[int](), set[Any]()

        def first(wanted: Iterable[Any]) -> Iterator[int]:
            """What makes some variables, as far as it is not done."""
            for v in wanted:
                i = makers.get(v)
                if i is not None and i not in done and i not in skipped:
                    yield from first(variables(eqns[i]))
                    done.add(i)
                    yield i

        for i, eqn in enumerate(eqns):
            if i in skipped:
                waiting.update(eqn.outvars if i < skipped[i] else ())
            elif i in fused:
                yield from first(each.big for each in fused[i].reads)
                yield i
                yield from pending
                pending, waiting = [], set()
            elif waiting.intersection(variables(eqn)):
                pending.append(i)
                waiting.update(eqn.outvars)
            elif i not in done:
                done.add(i)
                yield i

    def _one_by_one(
        self, mirror: int, backward: Loop, passage: Passage, env: dict[Any, Any]
    ) -> None:
        forward = self.loops[passage.forward]
        assert isinstance(forward, Loop)
        made = backward.ticked | passage.feeds | passage.shared.keys()
        values = (
            _operands(forward, env, passage.given),
            _operands(backward, env, made),
            [env[each.big] for each in passage.reads],
        )
        reads = readers(self.closed.jaxpr)

        def is_on_the_way(at: int | None, slot: int) -> bool:
            return at in passage.here_only or (at == mirror and slot in made)

        def unread(loop: Loop) -> frozenset[int]:
            """Results that are read nowhere but on the way."""
            return frozenset(
                k
                for k, var in enumerate(loop.big.outvars)
                if all(is_on_the_way(*use) for use in reads.get(var, ()))
            )

        nowhere = (unread(forward), unread(backward))
        results = onef1b.run(forward, backward, passage, self.pipe, values, nowhere, self.entered)
        env.update((forward.big.outvars[k], value) for k, value in results.forward.items())
        env.update((backward.big.outvars[k], value) for k, value in results.backward.items())
        for way, left in ((passage.between, results.between), (passage.after, results.after)):
            env.update((way.leaves[k].big, value) for k, value in left.items())

    def _around(self, eqn: _compat.JaxprEqn, loops: Mapping[int, Loops]) -> dict[str, Any]:
        """Parameters of a loop whose body has loops that are pipelined."""
        body = eqn.params["jaxpr"]
        inner = _Program(body, loops, self.pipe)
        avals = [v.aval for v in body.jaxpr.invars]
        return {**eqn.params, "jaxpr": _compat.retrace(lambda *args: inner.run(args), avals)}


def _operands(
    loop: Loop, env: dict[Any, Any], without: frozenset[int] | None = None
) -> dict[int, Any]:
    """A loop's operands, as it takes them: of what is spread over the batch, what is spread."""
    without = loop.ticked if without is None else without
    return {
        k: value_of(loop.spread[k][0].invars[0] if k in loop.spread else v, env)
        for k, v in enumerate(loop.big.invars)
        if k not in without
    }
