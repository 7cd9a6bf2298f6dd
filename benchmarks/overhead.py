"""What a decorated call costs over the same `jax.jit` call.

Both run the same compiled program on 8 simulated CPU devices, with the same shardings and the same
donation, on states of 66 and of 600 leaves. Calls are interleaved, so that a machine that slows
down slows both; the ratio of medians is what to quote.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from typing import Any

DEVICES = 8
LEAVES = (66, 600)


def measure(leaves: int, calls: int) -> dict[str, Any]:
    """Median seconds of both calls for a state of this many leaves, and their ratio."""
    import jax
    import jax.numpy as jnp

    from autoshard import autoshard

    def step(state: dict[str, jax.Array], x: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        total = jnp.sum(x)
        return {name: leaf + total for name, leaf in state.items()}, total

    def fresh() -> tuple[dict[str, jax.Array], jax.Array]:
        state = {f"leaf{i}": jnp.full((8, 8), float(i)) for i in range(leaves - 1)}
        return state, jnp.ones(8)

    decorated = autoshard(step, donate_argnums=0)
    state, x = fresh()
    plan = decorated.plan_for(state, x)
    ours = jax.device_put((state, x), plan.shardings(jax.devices(), like=(state, x)))
    theirs = jax.tree.map(jnp.copy, ours)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, ours)
    jitted = jax.jit(
        step,
        in_shardings=shardings,
        out_shardings=(shardings[0], None),
        donate_argnums=0,
    )
    seconds: dict[str, list[float]] = {"autoshard": [], "jit": []}
    (a, x), (b, y) = ours, theirs
    for k in range(calls + 10):
        order = ("autoshard", "jit") if k % 2 else ("jit", "autoshard")
        for which in order:
            begun = time.perf_counter()
            if which == "autoshard":
                a, out = decorated(a, x)
            else:
                b, out = jitted(b, y)
            out.block_until_ready()
            if k >= 10:  # the first calls plan, compile and warm up
                seconds[which].append(time.perf_counter() - begun)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "leaves": leaves,
        "calls": calls,
        "autoshard_s": medians["autoshard"],
        "jit_s": medians["jit"],
        "ratio": medians["autoshard"] / medians["jit"],
    }


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 0 always, a benchmark judges nothing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks overhead", description=__doc__)
    parser.add_argument("--calls", type=int, default=400, help="counted calls of each")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    # Before JAX's backend starts.
    flag = f"--xla_force_host_platform_device_count={DEVICES}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    rows = [measure(leaves, args.calls) for leaves in LEAVES]
    import jax

    result = {
        "command": "python -m benchmarks overhead --json",
        "machine": f"{os.cpu_count()} CPU cores, {DEVICES} simulated devices",
        "python": platform.python_version(),
        "jax": jax.__version__,
        "rows": rows,
    }
    if args.json:
        print(json.dumps(result, indent=2))
        return 0
    print("leaves   autoshard      jax.jit   ratio")
    for row in rows:
        ours, theirs = row["autoshard_s"] * 1e6, row["jit_s"] * 1e6
        print(f"{row['leaves']:6d}  {ours:8.0f} us  {theirs:8.0f} us  {row['ratio']:6.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
