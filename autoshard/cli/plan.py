"""`autoshard plan TARGET --on MACHINE`: plan a step without devices."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from autoshard.cli.show import show
from autoshard.cli.verb import UsageError, Verb, resolve
from autoshard.options import OBJECTIVES, REMAT_WORDS, parse_size
from autoshard.plan.model import Plan
from autoshard.schedules import SCHEDULES

PLAN = "autoshard.api:plan"
ZOO = "autoshard.models.zoo:zoo"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="module:function that returns (step_fn, abstract_args), or a model such as gpt-125m",
    )
    parser.add_argument("--on", metavar="MACHINE", required=True, help="such as v5e:2x4")
    parser.add_argument("--mesh", type=mesh, help='fixed axis sizes: "data=4,tensor=2"')
    parser.add_argument("--memory", type=size_bytes, help="limit per device, such as 14GB")
    parser.add_argument(
        "--objective",
        choices=OBJECTIVES,
        help="latency: one call as soon as may be; throughput: calls per second, of copies that run"
        " side by side",
    )
    parser.add_argument(
        "--strategy", metavar="NAME", help="an expert's layout, such as zero1+megatron"
    )
    parser.add_argument(
        "--donate",
        type=indices,
        metavar="ARGS",
        help='arguments whose buffers the step may reuse: "0", "0,2" or "none"; by default the'
        " first, which is the state of a train step",
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="of a model by name")
    form_and_time(parser)
    parser.add_argument("--save", metavar="FILE", help="write the plan to FILE too")
    parser.add_argument("--json", action="store_true", help="print the predictions as JSON")


def form_and_time(parser: argparse.ArgumentParser) -> None:
    """Declare which forms of the step may be planned, and for how long."""
    parser.add_argument(
        "--remat",
        type=remat,
        metavar="no|none|selective|full|auto",
        help="what the backward pass computes again of scanned layers; no: what the step says",
    )
    parser.add_argument(
        "--microbatch",
        type=microbatch,
        metavar="K|auto",
        help="take the batch in K parts, one after the other, and accumulate gradients",
    )
    parser.add_argument(
        "--pipeline",
        type=stages,
        metavar="auto|no|N",
        help="cut layers into N stages on a mesh axis `pipe`; auto: where that is faster",
    )
    parser.add_argument(
        "--schedule",
        choices=("auto", *SCHEDULES),
        help="in which order microbatches go through the stages",
    )
    parser.add_argument("--time-limit", type=seconds, metavar="S", help="for the search, seconds")


def run(args: argparse.Namespace) -> int:
    """Plan it."""
    step, abstract = target(args.target, args.batch_size)
    options = {
        "donate_argnums": donated(args.donate, step),
        "mesh": args.mesh,
        "memory": args.memory,
        "strategy": args.strategy,
        "objective": args.objective,
        "remat": args.remat,
        "microbatch": args.microbatch,
        "pipeline": args.pipeline,
        "schedule": args.schedule,
        "time_limit_s": args.time_limit,
    }
    make = resolve(PLAN)
    began_s = time.monotonic()
    plan: Plan = make(
        step, *abstract, on=args.on, **{k: v for k, v in options.items() if v is not None}
    )
    planning_s = time.monotonic() - began_s
    if args.save:
        plan.save(args.save)
    if args.json:
        print(json.dumps(summary(plan, planning_s), indent=2))
    else:
        show(plan)
    return 0


def donated(asked: tuple[int, ...] | None, step: object) -> tuple[int, ...] | None:
    """The arguments to donate; a decorated step says itself, and then it is None."""
    return (0,) if asked is None and not hasattr(step, "plan_for") else asked


def summary(plan: Plan, planning_s: float) -> dict[str, Any]:
    """What scripts ask of a plan."""
    return {
        "mesh": plan.mesh.sizes,
        "objective": plan.objective,
        "copies": plan.copies,
        "calls_per_s": plan.calls_per_s,
        "predicted_step_s": plan.prediction.step_s,
        "predicted_peak_bytes": plan.prediction.peak_bytes,
        "lower_bound_s": plan.certificate.lower_bound_s,
        "gap": plan.certificate.gap,
        "planning_s": planning_s,
    }


def target(name: str, batch_size: int | None = None) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The step and its abstract arguments.

    Raises:
        UsageError: no such function or model, or the function returns something else.
    """
    if ":" not in name:
        try:
            found = resolve(ZOO)(name, **({} if batch_size is None else {"batch_size": batch_size}))
        except KeyError as error:
            raise UsageError(f"{error.args[0]}; or give module:function") from error
    elif batch_size is not None:
        raise UsageError("--batch-size is for models by name; module:function makes its own batch")
    else:
        # As `python -m` does: a person's own module stands where they stand.
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        found = resolve(name)()
    if not (isinstance(found, tuple) and len(found) == 2 and callable(found[0])):
        raise UsageError(
            f"{name} must return (step_fn, abstract_args), and returns {type(found).__name__}"
        )
    step, abstract = found
    return step, abstract if isinstance(abstract, tuple) else (abstract,)


def mesh(text: str) -> dict[str, int]:
    """Axis sizes from `"data=4,tensor=2"`."""
    pairs = [part.partition("=") for part in text.split(",")]
    names = {name.strip() for name, _, _ in pairs}
    whole = all(name.strip() and size.strip().isdecimal() for name, _, size in pairs)
    if not whole or len(names) < len(pairs) or any(int(size) < 1 for _, _, size in pairs):
        raise argparse.ArgumentTypeError(f'{text!r} is no mesh; write "data=4,tensor=2"')
    return {name.strip(): int(size) for name, _, size in pairs}


def indices(text: str) -> tuple[int, ...]:
    """Argument positions from `"0,2"` or `"none"`."""
    if text.strip().lower() == "none":
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no list of argument positions; write "0", "0,2" or "none"'
        ) from error


def size_bytes(text: str) -> int:
    """Bytes from `"14GB"` (decimal) or `"13.5GiB"` (binary)."""
    try:
        return int(parse_size(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def seconds(text: str) -> float:
    """Seconds above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write seconds, such as 30")
    return value


def remat(text: str) -> bool | str:
    """`"yes"`, `"no"`, or one of the words that the option takes."""
    words: dict[str, bool | str] = {"no": False, "yes": True} | {w: w for w in REMAT_WORDS}
    if text not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(words)}")
    return words[text]


def microbatch(text: str) -> int | str:
    """How many, or `"auto"`."""
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of microbatches; write 1 or more, or auto"
        )
    return int(text)


def stages(text: str) -> bool | int | str:
    """How many, `"auto"` or `"no"`."""
    if text in ("auto", "no"):
        return text if text == "auto" else False
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of stages; write 2 or more, auto or no"
        )
    return int(text)


VERB = Verb("plan", "Plan how a step is laid out, without devices.", arguments, run)
