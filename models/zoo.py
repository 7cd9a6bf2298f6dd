"""Every model of the zoo by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

_MODULES = (
    "mlp",
    "gpt",
    "gpt_nnx",
    "gpt_linen",
    "gpt_serve",
    "llama",
    "moe",
    "t5",
    "ssm",
    "vit",
    "convnet",
    "wideresnet",
    "unet",
    "dlrm",
    "gnn",
)


@dataclass(frozen=True)
class Entry:
    """A named configuration and the module that knows what to do with it."""

    name: str
    module: Any
    config: Any

    def build(self, batch_size: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The step and its abstract arguments."""
        arguments = self.module.abstract_inputs(self.config, batch_size)
        make = getattr(self.module, "make_step", None) or self.module.make_train_step
        return make(self.config), arguments

    @property
    def trains(self) -> bool:
        """Whether the step is a train step; otherwise it is one of inference."""
        return not hasattr(self.module, "make_step")

    @property
    def donate_argnums(self) -> tuple[int, ...]:
        """Arguments whose memory the step may take over; the state, where nothing is said."""
        said = getattr(self.module, "donate_argnums", None)
        return (0,) if said is None else tuple(said(self.config))


def collect(modules: Iterable[tuple[str, Mapping[str, Any], Any]]) -> dict[str, Entry]:
    """Entries by name.

    Args:
        modules: (module name, its `CONFIGS`, the module).

    Raises:
        ValueError: two modules give the same name to a configuration.
    """
    found: dict[str, Entry] = {}
    owners: dict[str, str] = {}
    for owner, configs, module in modules:
        for name, config in configs.items():
            if name in found:
                raise ValueError(
                    f"model name {name!r} is taken twice: by {owners[name]} and by {owner};"
                    " rename one in its CONFIGS"
                )
            found[name], owners[name] = Entry(name, module, config), owner
    return found


def entries() -> dict[str, Entry]:
    """Every model of the zoo by name."""
    modules = [(name, import_module(f"autoshard.models.{name}")) for name in _MODULES]
    return collect((name, module.CONFIGS, module) for name, module in modules)


def zoo(name: str, batch_size: int = 8) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A model's step and its abstract arguments; allocates nothing.

    Args:
        name: such as "gpt-1.3b".
        batch_size: examples in a batch, over all devices.

    Returns:
        `(step, arguments)`, fit for `jax.eval_shape(step, *arguments)`.

    Raises:
        KeyError: no such model; names those there are.
    """
    found = entries()
    if name not in found:
        raise KeyError(f"no model {name!r} in the zoo; there are: {', '.join(sorted(found))}")
    return found[name].build(batch_size)
