"""Laws compile hundreds of programs; none is needed again once its law was tried."""

import gc
from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def dropped_after_each() -> Iterator[None]:
    """Every compiled program holds memory mappings, of which a process may only have so many."""
    yield
    jax.clear_caches()
    gc.collect()
