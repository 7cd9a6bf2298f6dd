"""`autoshard verify TARGET --on MACHINE`: the plan beside what the compiler makes of it."""

from __future__ import annotations

import argparse
import os
from importlib import import_module
from typing import Any

from autoshard.cli.plan import (
    donated,
    form_and_time,
    indices,
    mesh,
    size_bytes,
    target,
)
from autoshard.cli.show import show
from autoshard.cli.verb import Verb, resolve
from autoshard.plan import pretty

VERIFY = "autoshard.api:verify"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="module:function that returns (step_fn, abstract_args), or a model such as gpt-125m",
    )
    parser.add_argument(
        "--on",
        metavar="MACHINE",
        required=True,
        help="whose compiler is asked: v5e:2x4 (extra 'tpu'), 8xh100 (extra 'gpu-aot'), cpu:8",
    )
    parser.add_argument("--mesh", type=mesh, help='fixed axis sizes: "data=4,tensor=2"')
    parser.add_argument("--memory", type=size_bytes, help="limit per device, such as 14GB")
    parser.add_argument(
        "--strategy", metavar="NAME", help="an expert's layout, such as zero1+megatron"
    )
    parser.add_argument("--donate", type=indices, metavar="ARGS", help="as for plan")
    parser.add_argument("--batch-size", type=int, metavar="N", help="of a model by name")
    form_and_time(parser)
    parser.add_argument(
        "--tolerance",
        type=fraction,
        default=0.1,
        metavar="F",
        help="largest relative difference that is agreement; 0.1 by default",
    )
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")
    parser.add_argument("--all", action="store_true", help="every collective, however small")


def run(args: argparse.Namespace) -> int:
    """Plan it, compile it, compare; status 1 when they disagree."""
    # The compilers describe machines that are not here; JAX itself is to stay on the CPU.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    step, abstract = target(args.target, args.batch_size)
    options: dict[str, Any] = {
        "mesh": args.mesh,
        "memory": args.memory,
        "strategy": args.strategy,
        "remat": args.remat,
        "microbatch": args.microbatch,
        "pipeline": args.pipeline,
        "schedule": args.schedule,
        "time_limit_s": args.time_limit,
        "donate_argnums": donated(args.donate, step),
    }
    found = resolve(VERIFY)(
        step,
        *abstract,
        on=args.on,
        tolerance=args.tolerance,
        **{k: v for k, v in options.items() if v is not None},
    )
    report = import_module("autoshard.report.comparison")
    if args.json:
        print(pretty.dumps(report.as_json(found)), end="")
    else:
        show(report.renderable(found, args.all))
    return 0 if found.agrees else 1


def fraction(text: str) -> float:
    """A share such as 0.1, above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no tolerance; write a share, such as 0.1")
    return value


VERB = Verb("verify", "Compare a plan with what the compiler makes of it.", arguments, run)
