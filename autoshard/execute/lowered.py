"""What `lower` and `compile` return where JAX's own objects would want other arguments.

`jax.jit` takes no keyword arguments beside shardings, and knows nothing of NNX modules, so the
program inside takes positional arrays. These two let the user call it as the function was lowered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Lowered:
    """`jax.stages.Lowered`, whose compiled program is called through `run`.

    Args:
        inside: JAX's object; all its other methods are at hand.
        run: takes JAX's compiled program, then the arguments.
    """

    def __init__(self, inside: Any, run: Callable[..., Any]) -> None:
        self._inside, self._run = inside, run

    def compile(self, *args: Any, **kwargs: Any) -> Compiled:
        return Compiled(self._inside.compile(*args, **kwargs), self._run)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inside, name)


class Compiled:
    """`jax.stages.Compiled`, called through `run`."""

    def __init__(self, inside: Any, run: Callable[..., Any]) -> None:
        self._inside, self._run = inside, run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(self._inside, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inside, name)
