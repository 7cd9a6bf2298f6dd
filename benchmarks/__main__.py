"""`python -m benchmarks NAME ...`: one subcommand a benchmark, imported when it is asked for."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

# name -> "module:function"; the function takes the remaining arguments and returns an exit status.
COMMANDS = {
    "arena": "benchmarks.arena.main:main",
    "costing": "benchmarks.costing:main",
    "compiled": "benchmarks.compiled.main:main",
    "figures": "benchmarks.figures:main",
    "overhead": "benchmarks.overhead:main",
    "pipelines": "benchmarks.pipelines:main",
    "planning": "benchmarks.planning:main",
    "published": "benchmarks.published.main:main",
    "scale": "benchmarks.scale:main",
    "solver": "benchmarks.solver:main",
    "wild": "benchmarks.wild.main:main",
}


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=sorted(COMMANDS))
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    module, function = COMMANDS[args.name].split(":")
    return int(getattr(import_module(module), function)(args.arguments))


if __name__ == "__main__":
    sys.exit(main())
