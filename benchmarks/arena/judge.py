"""Seconds of a step, estimated from the text of its scheduled TPU module and data sheets alone.

The planner's own cost model (`autoshard.cost`) has no part in this: it may not judge itself. The
schedule is replayed instruction by instruction against three clocks.

* *The core.* An instruction takes the longest of: FLOPs of its products over peak times the
  data sheet's matmul efficiency; bytes to and from HBM over bandwidth times efficiency; bytes in
  on-chip memory over `_VMEM` times that bandwidth (`work.py` says what is counted).
* *HBM.* Copies between HBM and on-chip memory that are started ahead (`copy-start`, `slice-start`)
  queue for the same bandwidth; the core waits at `-done` for what has not arrived.
* *Links*, one clock for each of the torus, one way (`links.py`). A synchronous
  collective stops the core until it is done. An asynchronous one (start and done pairs,
  asynchronous fusions, the permutes of windowed products) runs beside whatever is scheduled
  between start and done. Collectives on the same links wait for each other.

Loops run their body twice, and the second round, which finds the clocks as the first left them,
counts for all the others. Left out, alike for everybody: FLOPs of the vector units, the start of
kernels, bandwidth that collectives take from HBM, and products that fill the matrix unit badly.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from autoshard.machine import Chip
from autoshard.verify.collectives import KINDS, tensors, trips
from autoshard.verify.groups import groups_of, pairs_of
from autoshard.verify.hlo import Instruction, Module, parse
from benchmarks.arena.links import Links, Way
from benchmarks.arena.work import Reader, placed

# Bandwidth of a TPU's on-chip memory over that of HBM: "around 22x higher",
# https://jax-ml.github.io/scaling-book/tpus/
_VMEM = 22.0
_CHANNEL = re.compile(r"channel_id=(\d+)")
_ASYNC_START = 'custom_call_target="AsyncCollectiveStart"'
_ASYNC_DONE = 'custom_call_target="AsyncCollectiveDone"'
_KINDS = sorted(set(KINDS.values()))
_SCATTERS = "all-reduce-scatter"
_RATE = "bf16"  # what products of floats run at unless a program asks for more passes


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a step is estimated to take.

    Attributes:
        step_s: of the whole step; the three others are parts of it.
        core_s: computing and moving bytes.
        copies_s: waiting for copies from HBM.
        links_s: waiting for collectives, of whatever kind.
        flops: of one device.
        hbm_bytes: to and from HBM, of one device.
        collectives: kind -> (times, bytes, seconds on the links), hidden or not.
        exposed_s: kind -> seconds that the core waits for it.
    """

    step_s: float
    core_s: float
    copies_s: float
    links_s: float
    flops: float
    hbm_bytes: float
    collectives: Mapping[str, tuple[float, float, float]]
    exposed_s: Mapping[str, float]


def judge(text: str, chip: Chip, links: Links) -> Verdict:
    """Replay a module.

    Args:
        text: of the scheduled module.
        chip: that it is compiled for.
        links: between its devices, numbered as the program numbers them.

    Raises:
        ValueError: the text is no HLO module.
    """
    module = parse(text)
    replay = _Replay(module, chip, links)
    replay.run(module.entry)
    sums = replay.sums
    exposed = {k: sums["exposed", k] for k in _KINDS if sums["exposed", k]}
    return Verdict(
        step_s=replay.now,
        core_s=sums["core", ""],
        copies_s=sums["copies", ""],
        links_s=sum(exposed.values()),
        flops=sums["flops", ""],
        hbm_bytes=sums["hbm", ""],
        collectives={
            k: (sums["times", k], sums["bytes", k], sums["seconds", k])
            for k in _KINDS
            if sums["times", k]
        },
        exposed_s=exposed,
    )


@dataclass
class _Flight:
    """Something under way: when it is there, and what it is ("" for a copy)."""

    there_s: float
    kind: str


@dataclass
class _Replay:
    module: Module
    chip: Chip
    links: Links
    now: float = 0.0
    hbm_free_s: float = 0.0
    link_free_s: dict[Way, float] = field(default_factory=dict)
    flying: dict[str, _Flight] = field(default_factory=dict)
    sums: defaultdict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))

    def __post_init__(self) -> None:
        self.reader = Reader(self.module)
        self.flops_per_s = self.chip.peak_flops_per_s[_RATE] * self.chip.matmul_efficiency
        self.hbm_bytes_per_s = self.chip.memory_bytes_per_s * self.chip.memory_efficiency
        self.n_devices = len(self.links.order)

    def run(self, computation: str) -> None:
        for instruction in self.module.computations.get(computation, ()):
            self._step(computation, instruction)

    def _step(self, computation: str, i: Instruction) -> None:
        opcode = i.opcode
        if opcode == "while":
            self._loop(i)
        elif opcode == "conditional":
            self._branch(i)
        elif opcode == "call":
            for name in i.called("to_apply"):
                self.run(name)
        elif opcode.removesuffix("-start") in KINDS:
            self._collective(i, i, asynchronous=opcode.endswith("-start"))
        elif opcode.endswith("-done"):
            self._await(i.operands[0] if i.operands else "")
        elif opcode == "async-start":
            self._async(i)
        elif opcode == "copy-start":
            self._copy(i)
        elif opcode == "fusion":
            self._fusion(computation, i)
        else:
            self._compute(computation, i)

    # -- the core ----------------------------------------------------------------------------

    def _compute(self, computation: str, i: Instruction) -> None:
        work = self.reader.work(computation, i)
        if not (work.flops or work.hbm_bytes or work.vmem_bytes):
            return
        busy_s = max(
            work.flops / self.flops_per_s, work.vmem_bytes / (_VMEM * self.hbm_bytes_per_s)
        )
        end = self.now + busy_s
        if work.hbm_bytes:
            alone = work.hbm_bytes / self.hbm_bytes_per_s
            self.hbm_free_s = max(self.now, self.hbm_free_s) + alone
            # Bytes of this instruction cannot pass copies that were queued before.
            end = max(end, self.hbm_free_s)
            self.sums["hbm", ""] += work.hbm_bytes
        self.sums["flops", ""] += work.flops
        self.sums["core", ""] += end - self.now
        self.now = end

    def _fusion(self, computation: str, i: Instruction) -> None:
        """A fusion may start, carry on and end collectives beside what it computes."""
        inner = [j for name in i.called("calls") for j in self.module.computations.get(name, ())]
        sent = [j for j in inner if j.opcode.removesuffix("-start") in KINDS]
        if not sent:
            self._compute(computation, i)
            return
        text = " ".join(j.attributes for j in inner)
        starts, ends = _ASYNC_START in text, _ASYNC_DONE in text
        named = [name for name in i.called("calls")]
        for j in sent:
            key = _key(j)
            if ends and key in self.flying:
                self._land(key)
            elif starts and key not in self.flying:
                self._collective(i, j, asynchronous=True, key=key)
            elif not starts and not ends and key not in self.flying:
                scatters = any(name.startswith(_SCATTERS) for name in named)
                self._collective(i, j, asynchronous=False, scatters=scatters)
        if not starts and not ends:
            self._compute(computation, i)

    # -- what runs beside it -----------------------------------------------------------------

    def _collective(
        self,
        outer: Instruction,
        i: Instruction,
        *,
        asynchronous: bool,
        key: str = "",
        scatters: bool = False,
    ) -> None:
        kind = KINDS[i.opcode.removesuffix("-start")]
        if kind == "permute":
            groups = pairs_of(i.attributes)
        else:
            groups = groups_of(i.attributes, self.n_devices)
        size = sum(a.size_bytes for a in tensors(i))
        if i.opcode == "reduce-scatter":
            size *= max(len(group) for group in groups)
        kind = "reduce-scatter" if scatters and kind == "all-reduce" else kind
        seconds, ways = self.links.seconds(kind, groups, size)
        begin = max([self.now, *(self.link_free_s.get(way, 0.0) for way in ways)])
        there = begin + seconds
        self.link_free_s.update(dict.fromkeys(ways, there))
        if seconds:
            self.sums["times", kind] += 1
            self.sums["bytes", kind] += size
            self.sums["seconds", kind] += seconds
        self.flying[key or outer.name] = _Flight(there, kind)
        if not asynchronous:
            self._land(key or outer.name)

    def _copy(self, i: Instruction) -> None:
        """HBM to on-chip memory or back, or from HBM to HBM: what is moved crosses HBM's pins."""
        spaces = placed(i.type)[:2]
        moved = sum(a.bytes for a in spaces if not a.on_chip)
        self._queue(i.name, moved)

    def _queue(self, name: str, moved: float) -> None:
        self.hbm_free_s = max(self.now, self.hbm_free_s) + moved / self.hbm_bytes_per_s
        self.sums["hbm", ""] += moved
        self.flying[name] = _Flight(self.hbm_free_s, "")

    def _async(self, i: Instruction) -> None:
        """A computation that runs beside the core: slices that are copied ahead, or collectives."""
        inner = [j for name in i.called("calls") for j in self.module.computations.get(name, ())]
        sent = [j for j in inner if j.opcode in KINDS]
        for j in sent:
            self._collective(i, j, asynchronous=True)
        if not sent:
            root = next((j for j in inner if j.is_root), None)
            there = placed(root.type) if root else ()
            self._queue(i.name, sum(a.bytes for a in there))

    def _await(self, name: str) -> None:
        if name in self.flying:
            self._land(name)
            return
        # Started in the round before, or outside the loop: the oldest under way of this sort.
        waiting = [key for key, flight in self.flying.items() if flight.kind == "permute"]
        if waiting:
            self._land(min(waiting, key=lambda key: self.flying[key].there_s))

    def _land(self, key: str) -> None:
        flight = self.flying.pop(key)
        waited = max(0.0, flight.there_s - self.now)
        self.sums["exposed" if flight.kind else "copies", flight.kind] += waited
        self.now += waited

    # -- loops and branches ------------------------------------------------------------------

    def _loop(self, i: Instruction) -> None:
        times = trips(self.module, i)
        for name in i.called("body"):
            self.run(name)
            if times < 2:
                continue
            before = (self.now, defaultdict(float, self.sums), set(self.flying))
            hbm, ways = self.hbm_free_s, dict(self.link_free_s)
            self.run(name)
            rounds = times - 2
            later = rounds * (self.now - before[0])
            for part, total in list(self.sums.items()):
                self.sums[part] += rounds * (total - before[1][part])
            for key in set(self.flying) - before[2]:
                self.flying[key].there_s += later
            for way, free in self.link_free_s.items():
                if free != ways.get(way):
                    self.link_free_s[way] = free + later
            if self.hbm_free_s != hbm:
                self.hbm_free_s += later
            self.now += later

    def _branch(self, i: Instruction) -> None:
        """The longest of the branches."""
        names = i.called("branch_computations", "true_computation", "false_computation")
        best: _Replay | None = None
        for name in names:
            flying = {k: _Flight(f.there_s, f.kind) for k, f in self.flying.items()}
            one = _Replay(
                module=self.module,
                chip=self.chip,
                links=self.links,
                now=self.now,
                hbm_free_s=self.hbm_free_s,
                link_free_s=dict(self.link_free_s),
                flying=flying,
                sums=defaultdict(float, self.sums),
            )
            one.run(name)
            if best is None or one.now > best.now:
                best = one
        if best is not None:
            self.now, self.hbm_free_s = best.now, best.hbm_free_s
            self.link_free_s, self.flying, self.sums = best.link_free_s, best.flying, best.sums


def _key(i: Instruction) -> str:
    channel = _CHANNEL.search(i.attributes)
    return f"channel {channel[1]}" if channel else i.name


def geometric_mean(values: list[float]) -> float:
    """1 of none."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else 1.0
