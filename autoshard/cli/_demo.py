"""The demo: a small GPT learns Python's own source on eight simulated devices, and on one.

What a user would write, from end to end: an ordinary Flax NNX train step, one decorator above it.
JAX is imported only once its environment is set, so all its imports stand in functions.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from autoshard.report import text

_COUNT_FLAG = "--xla_force_host_platform_device_count"
# Many devices on few cores: a collective may wait long for its last participant, and XLA aborts
# the process after 40 s otherwise.
_PATIENCE_FLAG = "--xla_cpu_collective_call_terminate_timeout_seconds=600"


@dataclass(frozen=True)
class Options:
    """What the demo can be asked for.

    Attributes:
        steps: of training, for each of the two runs.
        devices: how many CPU devices to simulate.
        batch: examples in a step, over all devices.
        tolerance: largest relative difference of the losses that still counts as the same.
    """

    steps: int = 30
    devices: int = 8
    batch: int = 16
    tolerance: float = 1e-3


@dataclass(frozen=True)
class Run:
    """A finished training: losses in nats per byte, seconds of the first step and of the rest."""

    losses: tuple[float, ...]
    first_s: float
    rest_s: float


def main(options: Options | None = None, console: Console | None = None) -> int:
    """Run the demo.

    Returns:
        0 when both runs agree, 1 when they don't, 2 when the demo could not start.
    """
    options, console = options or Options(), console or Console()
    try:
        simulate_devices(options.devices)
        source = corpus()
        sharded, single = steps()
    except (RuntimeError, ImportError) as error:
        console.print(f"autoshard demo: {error}", style="red", markup=False, soft_wrap=True)
        return 2
    console.print(f"Text: {len(source):,} bytes of {sysconfig.get_paths()['stdlib']}")

    console.rule(f"{options.devices} devices, @autoshard")
    console.print("The first call traces, searches and compiles; the plan follows.")
    many = train(sharded, source, options, console, on_first=lambda: show_plan(sharded, console))
    console.rule("1 device, nnx.jit")
    one = train(single, source, options, console)
    console.rule("The same training?")
    worst = compare(many, one, options.devices, console)
    same = worst <= options.tolerance
    console.print(
        f"Largest relative difference {worst:.1e}: "
        + (f"within {options.tolerance:.0e}." if same else f"MORE than {options.tolerance:.0e}!"),
        style="green" if same else "red",
    )
    console.print("Simulated devices share this machine's cores: the seconds compare nothing else.")
    return 0 if same else 1


def simulate_devices(n: int) -> None:
    """Have JAX's CPU backend show `n` devices.

    Raises:
        RuntimeError: a backend was already started with another number.
        ImportError: JAX or Flax is missing.
    """
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if not f.startswith(_COUNT_FLAG)]
    os.environ["XLA_FLAGS"] = " ".join([_PATIENCE_FLAG, *flags, f"{_COUNT_FLAG}={n}"])
    os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        import flax  # noqa: F401
        import jax
        import optax  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{error}; install with: pip install 'autoshard[models]'") from error
    found = jax.device_count()
    if found != n:
        raise RuntimeError(
            f"JAX was already started with {found} device(s), the demo needs {n}; run it in a fresh"
            " interpreter: python -m autoshard.cli._demo"
        )


def corpus(limit_bytes: int = 2_000_000) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Source text that every Python has: its standard library, as bytes.

    Raises:
        RuntimeError: the standard library is not there as source.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    parts: list[bytes] = []
    size = 0
    for path in sorted(folder.glob("*.py")):
        parts.append(path.read_bytes())
        size += len(parts[-1])
        if size >= limit_bytes:
            break
    if size < 100_000:
        raise RuntimeError(f"found only {size} bytes of Python source in {folder} to train on")
    return np.frombuffer(b"".join(parts)[:limit_bytes], dtype=np.uint8)


def steps() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The train step for many devices, and the same for one."""
    from flax import nnx

    from autoshard import autoshard
    from autoshard.models import gpt_nnx

    @autoshard
    def train_step(model: Any, optimizer: Any, batch: Any) -> Any:
        return gpt_nnx.train_step(model, optimizer, batch)

    return train_step, nnx.jit(gpt_nnx.train_step)


def show_plan(step: Callable[..., Any], console: Console) -> None:
    """Print the plan of a step that has been called."""
    plan = getattr(step, "plan", None)
    if plan is not None:
        console.print(text.brief(plan, "print(train_step.plan) shows them"))


def batches(corpus: np.ndarray[Any, Any], batch: int, seq: int) -> Iterator[dict[str, Any]]:
    """Random windows of the text, the same in every run.

    Yields:
        `inputs` and `targets`, int32 `[batch, seq]`, one position apart.
    """
    random = np.random.default_rng(0)
    while True:
        starts = random.integers(0, len(corpus) - seq - 1, batch)
        windows = np.stack([corpus[s : s + seq + 1] for s in starts]).astype(np.int32)
        yield {"inputs": windows[:, :-1], "targets": windows[:, 1:]}


def train(
    step: Callable[..., Any],
    corpus: np.ndarray[Any, Any],
    options: Options,
    console: Console,
    on_first: Callable[[], None] = lambda: None,
) -> Run:
    """Train from the same start on the same batches, showing the loss as it falls."""
    import jax
    from flax import nnx

    from autoshard.models import gpt, gpt_nnx

    config = gpt.Config(
        vocab=256,
        seq=128,
        layers=4,
        heads=4,
        embed=128,
        compute_dtype="float32",
        learning_rate=3e-3,
    )
    model, optimizer = nnx.jit(gpt_nnx.init, static_argnums=1)(jax.random.key(0), config)
    source = batches(corpus, options.batch, config.seq)

    start_s = time.perf_counter()
    losses = [float(step(model, optimizer, next(source))["loss"])]
    first_s = time.perf_counter() - start_s
    on_first()

    start_s = time.perf_counter()
    with Live(console=console) if console.is_terminal else nullcontext() as live:
        for i in range(2, options.steps + 1):
            losses.append(float(step(model, optimizer, next(source))["loss"]))
            per_step_s = (time.perf_counter() - start_s) / (i - 1)
            line = Text(
                f"step {i:3d}/{options.steps}  loss {losses[-1]:.4f}  {per_step_s:.2f} s/step"
            )
            if live is not None:
                line.append(f"  {sparkline(losses)}", style="cyan")
                live.update(line)
            elif i % 5 == 0 or i == options.steps:
                console.print(line)
    return Run(tuple(losses), first_s, time.perf_counter() - start_s)


def sparkline(values: list[float], width: int = 40) -> str:
    """The last values as bars, lowest to highest."""
    shown = values[-width:]
    low, high = min(shown), max(shown)
    return "".join("▁▂▃▄▅▆▇█"[int(7 * (v - low) / (high - low or 1))] for v in shown)


def compare(many: Run, one: Run, devices: int, console: Console) -> float:
    """Print both runs side by side; returns the largest relative difference of the losses."""
    differences = [abs(a - b) / abs(b) for a, b in zip(many.losses, one.losses, strict=True)]
    table = Table("", f"{devices} devices", "1 device", "rel. difference")
    for column in table.columns[1:]:
        column.justify = "right"
    every = max(1, len(differences) // 8)
    for i in sorted({*range(0, len(differences), every), len(differences) - 1}):
        losses = f"{many.losses[i]:.6f}", f"{one.losses[i]:.6f}"
        table.add_row(f"loss at step {i + 1}", *losses, f"{differences[i]:.1e}")
    table.add_section()
    table.add_row("first step, compiling", f"{many.first_s:.1f} s", f"{one.first_s:.1f} s", "")
    table.add_row(
        f"other {len(differences) - 1} steps", f"{many.rest_s:.1f} s", f"{one.rest_s:.1f} s", ""
    )
    console.print(table)
    return max(differences)


if __name__ == "__main__":
    sys.exit(main())
