"""The communication of a compiled module: what is sent, how often, along which mesh axes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from autoshard.verify.groups import Span, groups_of, pairs_of, permute_span, span
from autoshard.verify.hlo import Frame, Instruction, Module, parse
from autoshard.verify.shapes import Array, arrays, parts

# HLO opcode -> the word plans use.
KINDS = {
    "all-gather": "all-gather",
    "reduce-scatter": "reduce-scatter",
    "all-reduce": "all-reduce",
    "all-to-all": "all-to-all",
    "ragged-all-to-all": "all-to-all",
    "collective-permute": "permute",
    "collective-broadcast": "broadcast",
}
# TPU: a fusion of this name reduces and scatters, though what stands inside is an all-reduce.
_REDUCE_SCATTER_FUSION = "all-reduce-scatter"
_START = 'custom_call_target="AsyncCollectiveStart"'
_ONCE = ("calls", "to_apply", "branch_computations", "true_computation", "false_computation")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_OP = re.compile(r'op_name="[^"]*"')
_TRIPS = re.compile(r'"known_trip_count":\s*\{"n":\s*"?(\d+)')
_INDEX = re.compile(r"index=(\d+)")
_INTEGER = re.compile(r"-?\d+")
_DEEPEST = 64


@dataclass(frozen=True, slots=True)
class Seen:
    """One tensor that a compiled program sends.

    A combiner may send several tensors by one instruction; each is an entry of its own.

    Attributes:
        kind: as in `autoshard.plan.model.Collective`.
        axes: mesh axes it runs over; () where no device talks to another.
        whole: False where it runs over parts of these axes only.
        count: times per step, enclosing loops' trips multiplied.
        bytes: of the larger side on one device, per occurrence.
        tensor: that side, such as "bf16[1024,4096]".
        op_name: JAX's name stack, such as "jit(step)/jvp()/dot_general".
        source: "file:line" of the user, or "".
        name: of the HLO instruction.
        asynchronous: whether something can run beside it.
    """

    kind: str
    axes: tuple[str, ...]
    whole: bool
    count: int
    bytes: float
    tensor: str
    op_name: str = ""
    source: str = ""
    name: str = ""
    asynchronous: bool = False

    @property
    def total_bytes(self) -> float:
        return self.bytes * self.count


@dataclass(frozen=True, slots=True)
class _Site:
    instruction: Instruction
    times: int
    callers: tuple[Instruction, ...]
    computation: str


def collectives(
    text: str,
    sizes: Mapping[str, int],
    is_library: Callable[[str], bool] = lambda file: False,
) -> tuple[Seen, ...]:
    """All collectives of a module, in the order of the text's calls.

    Args:
        text: of the compiled module.
        sizes: of the mesh's axes, major first.
        is_library: whether a file is not the user's.
    """
    module = parse(text)
    found: dict[object, tuple[bool, list[Seen]]] = {}
    for site in _sites(module, module.entry, 1, ()):
        seen = list(_seen(module, site, sizes, is_library))
        if not seen:
            continue
        # TPU repeats a collective in each part of an asynchronous fusion, under one channel. Where
        # it starts says how often it runs: parts that continue it may stand in loops of others.
        # Those that a program writes itself (`shard_map`) all have one channel: where they send to,
        # and the op, tell them apart.
        channel = _CHANNEL.search(site.instruction.attributes)
        key: object = (site.instruction.name, len(found))
        if channel:
            op = _OP.search(site.instruction.attributes)
            pairs = pairs_of(site.instruction.attributes)
            key = (seen[0].kind, int(channel[1]), pairs, op and op[0])
        starts = _starts(module, site)
        before = found.get(key)
        if before is None or (before[0], before[1][0].count) < (starts, seen[0].count):
            found[key] = (starts, seen)
    return tuple(one for _, several in found.values() for one in several)


def _starts(module: Module, site: _Site) -> bool:
    """Whether this is the part of an asynchronous fusion that starts a collective."""
    return any(_START in i.attributes for i in module.computations[site.computation])


def _sites(
    module: Module, computation: str, times: int, callers: tuple[Instruction, ...]
) -> Iterator[_Site]:
    """Every collective that running a computation reaches, and how often."""
    if len(callers) > _DEEPEST:
        return
    for instruction in module.computations.get(computation, ()):
        above = (*callers, instruction)
        opcode = instruction.opcode.removesuffix("-start")
        if opcode in KINDS and not instruction.called("calls"):
            yield _Site(instruction, times, callers, computation)
        elif instruction.opcode == "while":
            rounds = trips(module, instruction)
            for inner in instruction.called("condition", "body"):
                yield from _sites(module, inner, times * rounds, above)
        elif "=%" in instruction.attributes or "={%" in instruction.attributes:
            for inner in instruction.called(*_ONCE):
                yield from _sites(module, inner, times, above)


def trips(module: Module, loop: Instruction) -> int:
    """How often a loop runs: what the compiler noted, else the number its condition compares to."""
    known = _TRIPS.search(loop.attributes)
    if known:
        return int(known[1])
    limits: list[int] = []
    for name in loop.called("condition"):
        limits += _constants(module, name).values()
    return max(1, -(-max([1, *limits]) // _step(module, loop)))


def _step(module: Module, loop: Instruction) -> int:
    """By how much a loop's counter grows in a round; TPU's rings pass two pieces a round."""
    counters = [
        _INDEX.search(i.attributes)
        for name in loop.called("condition")
        for i in module.computations.get(name, ())
        if i.opcode == "get-tuple-element"
    ]
    for body in loop.called("body"):
        made = {i.name: i for i in module.computations.get(body, ())}
        constants = _constants(module, body)
        root = next((i for i in made.values() if i.is_root), None)
        for counter in counters:
            if counter is None or root is None or int(counter[1]) >= len(root.operands):
                continue
            new = made.get(root.operands[int(counter[1])])
            if new is not None and new.opcode in ("add", "fusion"):
                return max([1, *(constants[o] for o in new.operands if o in constants)])
    return 1


def _constants(module: Module, computation: str) -> dict[str, int]:
    """Integer constants of a computation, by name."""
    return {
        i.name: int(i.literal)
        for i in module.computations.get(computation, ())
        if i.opcode == "constant" and _INTEGER.fullmatch(i.literal)
    }


def _seen(
    module: Module,
    site: _Site,
    sizes: Mapping[str, int],
    is_library: Callable[[str], bool],
) -> Iterator[Seen]:
    instruction = site.instruction
    opcode = instruction.opcode.removesuffix("-start")
    kind = KINDS[opcode]
    where = _span(instruction, kind, sizes)
    if where.size < 2 or not where.axes:
        return
    if kind == "all-reduce" and site.computation.startswith(_REDUCE_SCATTER_FUSION):
        kind = "reduce-scatter"
    told = next((i for i in (instruction, *reversed(site.callers)) if i.op_name), instruction)
    source = user_line(list(module.lines(told)), is_library)
    scatters = opcode == "reduce-scatter"
    for array in tensors(instruction):
        size_bytes = array.size_bytes * (where.size if scatters else 1)
        if size_bytes:
            yield Seen(
                kind=kind,
                axes=where.axes,
                whole=where.whole,
                count=site.times,
                bytes=size_bytes,
                tensor=str(array) + (f" of {where.size}" if scatters else ""),
                op_name=told.op_name,
                source=source,
                name=instruction.name,
                asynchronous=instruction.opcode.endswith("-start"),
            )


def tensors(instruction: Instruction) -> list[Array]:
    """What an instruction sends, tensor by tensor: the result, or what one device gets of it."""
    elements = parts(instruction.type)
    started = instruction.opcode.endswith("-start") and instruction.opcode != "all-reduce-start"
    # A start's type is (operands, results, ...the hardware's own).
    found = arrays(elements[1] if started and len(elements) > 1 else instruction.type)
    if "all-to-all" in instruction.opcode and "dimensions=" not in instruction.attributes:
        # One operand per peer: pieces of one tensor.
        first = found[0]
        whole = sum(a.size_bytes for a in found) / max(first.size_bytes, 1)
        return [replace(first, shape=(round(whole), *first.shape))]
    return found


def _span(instruction: Instruction, kind: str, sizes: Mapping[str, int]) -> Span:
    if kind == "permute":
        return permute_span(pairs_of(instruction.attributes), sizes)
    return span(groups_of(instruction.attributes, math.prod(sizes.values())), sizes)


def user_line(frames: Sequence[Frame], is_library: Callable[[str], bool]) -> str:
    """The innermost frame of user code as "file:line"; of any code if there is none, or ""."""
    mine = [f for f in frames if f[0] and not is_library(f[0])]
    for file, line in mine or frames[:1]:
        return f"{file}:{line}"
    return ""
