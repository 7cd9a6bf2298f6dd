"""`autoshard calibrate --out machine.toml`: measure the devices at hand, write a machine file."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from autoshard.cli.verb import UsageError, Verb, resolve

CALIBRATE = "autoshard.execute.calibrate:calibrate"
QUICK = "autoshard.execute.calibrate:QUICK"
_COUNT_FLAG = "--xla_force_host_platform_device_count"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument("--out", metavar="FILE", required=True, help="to write, such as mine.toml")
    parser.add_argument(
        "--name", metavar="NAME", help="of the chip; as in the catalogue if left out"
    )
    parser.add_argument(
        "--devices", type=int, metavar="N", help="simulate N CPU devices instead of what is there"
    )
    parser.add_argument("--quick", action="store_true", help="few and small cases, in seconds")


def run(args: argparse.Namespace) -> int:
    """Measure."""
    if not args.out.endswith(".toml"):
        raise UsageError(f"--out {args.out}: machine files end in .toml")
    if args.devices is not None:
        _simulate(args.devices)
    options: dict[str, Any] = {"effort": resolve(QUICK)} if args.quick else {}
    try:
        found = resolve(CALIBRATE)(
            args.out, name=args.name, tell=lambda line: print(line, file=sys.stderr), **options
        )
    except OSError as error:
        raise UsageError(f"cannot write {args.out}: {error.strerror}") from error
    for dtype, rate in found.rates.items():
        print(f"matmul {dtype}: {rate / 1e9:.4g} GFLOP/s a device")
    print(f"memory: {found.memory_bytes_per_s / 1e9:.4g} GB/s a device")
    if found.link_bytes_per_s is not None:
        print(
            f"links: {found.link_bytes_per_s / 1e9:.4g} GB/s, {found.base_latency_s * 1e6:.4g} us "
            f"to start, {found.hop_latency_s * 1e6:.4g} us a hop"
        )
    print(f'written: {args.out}; plan for it with on="{args.out}"')
    return 0


def _simulate(devices: int) -> None:
    if devices < 1:
        raise UsageError(f"--devices {devices}: at least one")
    if "jax" in sys.modules:
        raise UsageError("--devices: JAX was already started in this process")
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if not f.startswith(_COUNT_FLAG)]
    os.environ["XLA_FLAGS"] = " ".join([*flags, f"{_COUNT_FLAG}={devices}"])
    os.environ["JAX_PLATFORMS"] = "cpu"


VERB = Verb("calibrate", "Measure the devices at hand and write a machine file.", arguments, run)
