"""A sharding compiler for JAX: write the step for one device, decorate it, run it on many.

Names are loaded on first use, so that plans can be read and shown without importing JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoshard.annotations import pins as pins
    from autoshard.api import autoshard as autoshard
    from autoshard.api import plan as plan
    from autoshard.errors import AutoshardError as AutoshardError
    from autoshard.errors import AutoshardWarning as AutoshardWarning
    from autoshard.errors import InfeasibleError as InfeasibleError
    from autoshard.errors import IntentError as IntentError
    from autoshard.errors import PipelineError as PipelineError
    from autoshard.errors import StateMismatchError as StateMismatchError
    from autoshard.errors import UnknownPrimitiveError as UnknownPrimitiveError
    from autoshard.intent import forbid as forbid
    from autoshard.intent import pin as pin
    from autoshard.intent import prefer as prefer
    from autoshard.intent import tie as tie
    from autoshard.machine.model import Machine as Machine
    from autoshard.plan.model import Plan as Plan
    from autoshard.plan.store import load_plan as load_plan
    from autoshard.plan.store import save_plan as save_plan
    from autoshard.program.spec import Spec as Spec
    from autoshard.rules.kernels import rule as rule

__version__ = "0.1.0"

# `autoshard.plan` is a room of the package and `plan` a public function. A submodule's name is
# bound on its package when it is first imported, and only then: import the (empty) room here and
# give its name back to the function. `from autoshard.plan.model import Plan` works as ever.
import_module("autoshard.plan")
del globals()["plan"]

_PUBLIC = {
    "autoshard": "autoshard.api:autoshard",
    "plan": "autoshard.api:plan",
    "load_plan": "autoshard.plan.store:load_plan",
    "save_plan": "autoshard.plan.store:save_plan",
    "IntentError": "autoshard.errors:IntentError",
    "forbid": "autoshard.intent:forbid",
    "pin": "autoshard.intent:pin",
    "pins": "autoshard.annotations:pins",
    "prefer": "autoshard.intent:prefer",
    "tie": "autoshard.intent:tie",
    "rule": "autoshard.rules.kernels:rule",
    "Machine": "autoshard.machine.model:Machine",
    "Plan": "autoshard.plan.model:Plan",
    "Spec": "autoshard.program.spec:Spec",
    "AutoshardError": "autoshard.errors:AutoshardError",
    "AutoshardWarning": "autoshard.errors:AutoshardWarning",
    "InfeasibleError": "autoshard.errors:InfeasibleError",
    "PipelineError": "autoshard.errors:PipelineError",
    "StateMismatchError": "autoshard.errors:StateMismatchError",
    "UnknownPrimitiveError": "autoshard.errors:UnknownPrimitiveError",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> object:
    """Load a public name from the room that defines it (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'autoshard' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    value: object = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_PUBLIC))
