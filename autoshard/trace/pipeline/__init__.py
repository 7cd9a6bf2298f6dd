"""Loops over layers cut into stages: found (`layers`), proven, and rewritten (`step`)."""
