"""Types in HLO text: "(bf16[8,256]{1,0:T(8,128)}, u32[])" as arrays with sizes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=?]*)\]")


@dataclass(frozen=True, slots=True)
class Array:
    """One array of a type."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> float:
        return math.prod(self.shape) * bits(self.dtype) / 8

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def bits(dtype: str) -> int:
    """Bits of one element: "bf16" has 16, "f8e4m3fn" 8, "pred" 8, "token" none."""
    if dtype == "pred":
        return 8
    found = re.match(r"[a-z]+?(\d+)", dtype)
    return int(found[1]) if found else 0


def arrays(text: str) -> list[Array]:
    """All arrays of a type, tuples flattened."""
    return [
        Array(found[1], tuple(int(n) for n in re.findall(r"\d+", found[2])))
        for found in _ARRAY.finditer(text)
    ]


def parts(text: str) -> list[str]:
    """The elements of a tuple type, or the type itself."""
    if not text.startswith("("):
        return [text]
    out, depth, start = [], 0, 1
    for k, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if (c == "," and depth == 1) or (depth == 0 and k > 0):
            out.append(text[start:k].strip())
            start = k + 1
            if depth == 0:
                break
    return [part for part in out if part]
