"""Paths, shapes and lines as a table has room for them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence

_STEP = re.compile(r"\['([^']*)'\]|\[\"([^\"]*)\"\]|\[([^\]]*)\]|\.([^.\[\]]+)|^([^.\[\]]+)")
_SHORT = {"float": "f", "bfloat": "bf", "int": "s", "uint": "u", "complex": "c"}
_ALTERNATIVES = 4
_MOST_LINES = 5


def steps(path: str) -> tuple[str, ...]:
    """The keys of a pytree path: `state['layers'][0].mu` is `("state", "layers", "0", "mu")`.

    A path in another notation is one step.
    """
    found, end = [], 0
    for match in _STEP.finditer(path):
        if match.start() != end:
            return (path,)
        found.append(next((group for group in match.groups() if group is not None), ""))
        end = match.end()
    return tuple(found) if found and end == len(path) else (path,)


def root(names: Iterable[str]) -> tuple[str, ...]:
    """The steps that all paths begin with; a path that is nothing else keeps its last."""
    split = [steps(name) for name in names]
    return _common([s[:-1] for s in split])


def pattern(names: Sequence[str], below: int = 0) -> str:
    """One name for many paths: `state/layers/0-23/mlp/{up,down}`, or `state/.../kernel`.

    Args:
        names: pytree paths.
        below: how many steps at the start of each to leave out.
    """
    split = [steps(name)[below:] for name in names]
    if len(split) == 1:
        return "/".join(split[0])
    if len({len(s) for s in split}) == 1:
        columns = [tuple(dict.fromkeys(column)) for column in zip(*split, strict=True)]
        braced = [_alternatives(column) for column in columns]
        # Only where every combination is among the paths do the braces tell the truth.
        if math.prod(map(len, columns)) == len(set(split)) and all(braced):
            return "/".join(map(str, braced))
    if len(split) == 2:
        return ", ".join("/".join(s) for s in split)
    prefix = _common(split)
    rest = [s[len(prefix) :] for s in split]
    suffix = tuple(reversed(_common([tuple(reversed(s)) for s in rest])))
    return "/".join((*prefix, "...", *suffix))


def _alternatives(column: tuple[str, ...]) -> str | None:
    if len(column) == 1:
        return column[0]
    if all(name.isdecimal() for name in column):
        numbers = sorted(map(int, column))
        if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            return f"{numbers[0]}-{numbers[-1]}"
    return "{" + ",".join(column) + "}" if len(column) <= _ALTERNATIVES else None


def _common(split: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    found = []
    for column in zip(*split, strict=False):
        if len(set(column)) > 1:
            break
        found.append(column[0])
    return tuple(found)


def dtype(name: str) -> str:
    """A dtype the way jaxprs print it: `f32`, `bf16`, `s32`."""
    return re.sub(r"^(float|bfloat|int|uint|complex)(?=\d)", lambda m: _SHORT[m[1]], name)


def tensor(dtype_name: str, shape: Sequence[int]) -> str:
    """A tensor's type: `f32[24,1024]`."""
    return f"{dtype(dtype_name)}[{','.join(map(str, shape))}]"


def shorten(text: str) -> str:
    """Text with the dtypes of the tensors in it shortened: `logits bf16[64,1024]`."""
    return re.sub(r"\b(\w+)(?=\[[\d,]*\])", lambda m: dtype(m[1]), text)


def line(source: str) -> str:
    """`/home/ada/train/gpt.py:134` as `gpt.py:134`."""
    return os.path.basename(source)


def lines(sources: Iterable[str]) -> str:
    """Lines of files, each file named once: `gpt.py:120, 121, 134`; of many, the first few."""
    by_file: dict[str, list[str]] = {}
    for source in sources:
        name, _, number = line(source).rpartition(":")
        if number and number not in by_file.setdefault(name, []):
            by_file[name].append(number)
    order = {name: sorted(found, key=_as_number) for name, found in by_file.items()}
    for name, found in order.items():
        if len(found) > _MOST_LINES + 1:
            order[name] = [*found[:_MOST_LINES], f"... {len(found) - _MOST_LINES} more"]
    return "; ".join(
        f"{name}:{', '.join(found)}" if name else ", ".join(found) for name, found in order.items()
    )


def _as_number(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdecimal() else (0, text)
