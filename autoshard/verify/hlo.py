"""The text of a compiled HLO module, read as computations and instructions.

Only what a witness needs is read: names, types, opcodes, operands, attributes as text, and where
in the user's program an instruction comes from. The text is what `jax.stages.Compiled.as_text()`
gives; see "HLO text" in https://openxla.org/xla/architecture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Frame = tuple[str, int]  # (file, line)

_COMMENT = re.compile(r"/\*.*?\*/")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_OPERAND = re.compile(r"%([\w.\-]+)")
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_FRAME_ID = re.compile(r"stack_frame_id=(\d+)")
_OWN_LINE = re.compile(r'source_file="([^"]*)".*?source_line=(\d+)')


@dataclass(frozen=True, slots=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: without the percent sign.
        type: as written, layouts included.
        opcode: such as "all-gather-start".
        operands: names.
        literal: a constant's value, or a parameter's number, as text; "" for other instructions.
        attributes: the rest of the line.
        is_root: whether its value is the computation's.
    """

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    literal: str
    attributes: str
    is_root: bool

    @property
    def op_name(self) -> str:
        """JAX's name stack and primitive, such as "jit(step)/jvp()/dot_general"; may be ""."""
        found = _OP_NAME.search(self.attributes)
        return found[1] if found else ""

    def called(self, *attributes: str) -> tuple[str, ...]:
        """Computations that these attributes name, such as "body" or "calls"."""
        found: list[str] = []
        for attribute in attributes:
            for one in re.finditer(rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.attributes):
                found += re.findall(r"%?([\w.\-]+)", one[1])
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Module:
    """A module.

    Attributes:
        computations: instructions by the computation's name.
        entry: name of the computation that runs.
        frames: per stack frame number its (file, line) and the frame that called it.
    """

    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str
    frames: Mapping[int, tuple[Frame, int]]

    def lines(self, instruction: Instruction) -> Iterator[Frame]:
        """(file, line) of the frames that led to an instruction, innermost first."""
        own = _OWN_LINE.search(instruction.attributes)
        if own:
            yield own[1], int(own[2])
        number = _FRAME_ID.search(instruction.attributes)
        at = int(number[1]) if number else 0
        for _ in range(len(self.frames)):  # a cycle cannot hold us
            if at not in self.frames:
                return
            frame, at = self.frames[at]
            yield frame


def parse(text: str) -> Module:
    """Read a module.

    Raises:
        ValueError: the text is no HLO module: it has no ENTRY computation.
    """
    computations: dict[str, tuple[Instruction, ...]] = {}
    entry, name = "", ""
    body: list[Instruction] | None = None
    for raw in text.splitlines():
        if body is None:
            head = _HEAD.match(_COMMENT.sub("", raw)) if raw.endswith("{") else None
            if head:
                name, body = head[2], []
                entry = name if head[1] else entry
        elif raw.startswith("}"):
            computations[name], body = tuple(body), None
        else:
            instruction = _instruction(_COMMENT.sub("", raw))
            if instruction is not None:
                body.append(instruction)
    if not entry:
        raise ValueError("this text is no HLO module: it has no ENTRY computation")
    return Module(computations, entry, _frames(text))


def _instruction(line: str) -> Instruction | None:
    named = _NAME.match(line)
    if named is None:
        return None
    rest = line[named.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else _first_blank(rest)
    opcode = _OPCODE.match(rest, end)
    if opcode is None:
        return None
    close = _closing(rest, opcode.end() - 1)
    inside = rest[opcode.end() : close]
    return Instruction(
        name=named[2],
        type=rest[:end],
        opcode=opcode[1],
        operands=tuple(_OPERAND.findall(inside)),
        literal=inside if opcode[1] in ("constant", "parameter") else "",
        attributes=rest[close + 1 :],
        is_root=named[1] is not None,
    )


def _closing(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one at `start`; quoted text is passed over."""
    depth, quoted = 0, False
    for k in range(start, len(text)):
        c = text[k]
        if c == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif c == "(":
            depth += 1
        elif c == ")":
            depth -= 1
            if depth == 0:
                return k
    return len(text)


def _first_blank(text: str) -> int:
    end = text.find(" ")
    return len(text) if end < 0 else end


_TABLES = re.compile(r"^(FileNames|FileLocations|StackFrames)\n(.*?)\n\s*$", re.M | re.S)


def _frames(text: str) -> dict[int, tuple[Frame, int]]:
    """The tables ahead of the computations: file names, locations, and who called whom."""
    tables: dict[str, dict[int, str]] = {}
    for found in _TABLES.finditer(text):
        rows = (line.split(" ", 1) for line in found[2].splitlines())
        tables[found[1]] = {int(row[0]): row[1] for row in rows if len(row) == 2}
    files = {k: row.strip('"') for k, row in tables.get("FileNames", {}).items()}
    places: dict[int, Frame] = {}
    for k, row in tables.get("FileLocations", {}).items():
        at = _numbers(row)
        places[k] = (files.get(at.get("file_name_id", 0), ""), at.get("line", 0))
    frames: dict[int, tuple[Frame, int]] = {}
    for k, row in tables.get("StackFrames", {}).items():
        at = _numbers(row)
        # Callers are printed one too high: 1 is "nobody", 2 is frame 1.
        frames[k] = (places.get(at["file_location_id"], ("", 0)), at.get("parent_frame_id", 1) - 1)
    return frames


def _numbers(row: str) -> dict[str, int]:
    return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", row)}
