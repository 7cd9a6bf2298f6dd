"""Numbers for people: bytes in KiB/MiB/GiB, seconds in s/ms/us, with three digits that count."""

from __future__ import annotations

from collections.abc import Sequence

_BYTES = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
_PLAIN = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def _digits(value: float) -> str:
    """Three significant digits without an exponent: 0.123, 1.23, 12.3, 123, 1234."""
    if value == 0:
        return "0"
    decimals = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{decimals}f}"


def _scaled(value: float, table: Sequence[tuple[float, str]]) -> tuple[str, str] | None:
    for unit, name in table:
        # What would round to 1000 of the smaller unit is 1 of this one.
        if abs(value) >= 0.9995 * unit:
            return _digits(value / unit), name
    return None


def size(value_bytes: float) -> str:
    """Bytes for people: `"5.1 GiB"`, `"12 B"`."""
    found = _scaled(value_bytes, _BYTES)
    return " ".join(found) if found else f"{value_bytes:.0f} B"


def time(value_s: float) -> str:
    """Seconds for people: `"12.3 ms"`, `"0 s"`; below a tenth of a microsecond two digits."""
    found = _scaled(value_s, _SECONDS)
    if found:
        return " ".join(found)
    return "0 s" if value_s == 0 else f"{value_s * 1e6:.2g} us"


def amount(value: float) -> str:
    """A plain number for people: `"62.1 T"`."""
    found = _scaled(value, _PLAIN)
    return " ".join(found) if found else f"{value:.3g}"


def percent(fraction: float) -> str:
    """A fraction for people: `"2.5 %"`; what is not zero is not shown as zero."""
    value = 100 * fraction
    if 0 < value < 0.05:
        return "<0.1 %"
    return f"{value:.1f} %" if value < 99.95 else f"{value:.0f} %"


def ratio(before: float, after: float) -> str:
    """How `after` compares to `before`: `"1.25x"`, or `"-"` where nothing was before."""
    return f"{after / before:.2f}x" if before else "-"
