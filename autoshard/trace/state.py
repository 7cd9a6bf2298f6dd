"""Which outputs are the next values of which inputs: the state of a training step.

Nothing is said by name. An argument is state when some part of the output has the same pytree
structure and the same leaf shapes and dtypes.
"""

from __future__ import annotations

from typing import Any

from autoshard.errors import StateMismatchError, warn
from autoshard.trace.signature import LeafInfo, Signature


def match_state(
    sig: Signature,
    out_tree: Any,
    out_paths: list[Any],
    out_avals: list[Any],
    donated: frozenset[int],
) -> tuple[tuple[int, int], ...]:
    """Pair state outputs with state inputs, as (output index, input index).

    Subtrees are compared at the top of the output and one and two levels below it, so
    `return state`, `return state, metrics` and `return (params, opt_state), loss` are all seen.

    Raises:
        StateMismatchError: a donated argument has a twin in structure whose leaves differ.
    """
    taken: set[int] = set()
    pairs: list[tuple[int, int]] = []
    candidates = _subtrees(out_tree)
    arg_trees = sig.in_tree.children()
    offsets = [0]
    for tree in arg_trees:
        offsets.append(offsets[-1] + tree.num_leaves)
    # Donated arguments choose first: donation says "this comes back".
    order = sorted(range(len(arg_trees)), key=lambda i: (i not in donated, i))
    for i in order:
        tree, start = arg_trees[i], offsets[i]
        leaves = sig.leaves[start : offsets[i + 1]]
        near: tuple[int, list[int]] | None = None
        for out_start, out_sub in candidates:
            span = range(out_start, out_start + tree.num_leaves)
            if out_sub != tree or not leaves or taken & set(span):
                continue
            wrong = [
                k for k in range(len(leaves)) if not _same(leaves[k], out_avals[out_start + k])
            ]
            if not wrong:
                pairs += [(out_start + k, start + k) for k in range(len(leaves))]
                taken |= set(span)
                near = None
                break
            if near is None or len(wrong) < len(near[1]):
                near = (out_start, wrong)
        if near is not None:
            _report(leaves, out_avals, near, donated=i in donated)
    return tuple(sorted(pairs))


def _subtrees(tree: Any, depth: int = 3) -> list[tuple[int, Any]]:
    """(first leaf, subtree) for the tree and its descendants, outermost first."""
    level = [(0, tree)]
    out = list(level)
    for _ in range(depth - 1):
        below: list[tuple[int, Any]] = []
        for start, node in level:
            for child in node.children():
                below.append((start, child))
                start += child.num_leaves
        out += below
        level = below
    return out


def _same(leaf: LeafInfo, aval: Any) -> bool:
    return leaf.shape == tuple(aval.shape) and leaf.dtype == aval.dtype


def _report(
    leaves: tuple[LeafInfo, ...], avals: list[Any], near: tuple[int, list[int]], donated: bool
) -> None:
    start, wrong = near
    # A single leaf, or mostly different ones, is a coincidence of structure and no state.
    if not donated and (len(leaves) < 2 or 2 * len(wrong) > len(leaves)):
        return
    lines = [
        f"  {leaves[k].path}: {leaves[k].dtype}{list(leaves[k].shape)} goes in,"
        f" {avals[start + k].dtype}{list(avals[start + k].shape)} comes out"
        for k in wrong[:8]
    ]
    more = f"\n  ... and {len(wrong) - 8} more" if len(wrong) > 8 else ""
    text = (
        "the state that the step returns does not match the state it takes:\n"
        + "\n".join(lines)
        + more
        + "\nMake the step return the same shapes and dtypes (for example cast with"
        " `.astype(old.dtype)`), so that it can be fed its own result."
    )
    if donated:
        raise StateMismatchError(text + " The argument is donated, so its buffers would be lost.")
    warn(text)
