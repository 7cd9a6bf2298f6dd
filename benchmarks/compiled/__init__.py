"""Predicted beside compiled, over models, layouts and machines."""
