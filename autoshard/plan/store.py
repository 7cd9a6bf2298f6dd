"""Saving and loading under the names that the package's front page gives them."""

from __future__ import annotations

from autoshard.plan.serialize import load as load_plan
from autoshard.plan.serialize import save as save_plan

__all__ = ["load_plan", "save_plan"]
