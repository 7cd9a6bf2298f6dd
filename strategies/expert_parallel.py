"""Expert parallelism: each device holds some of the experts, tokens travel to theirs and back.

Batch and experts are split over the same axis. Tokens are sent where the split changes from the
one to the other, an all-to-all before the experts' products and one after them. Everything but
the experts is data parallel.
"""

from autoshard.search.strategy import WITHOUT_BATCH, Demand, Kind, Mask, Strategy, View


def over_data(view: View) -> Mask:
    """Experts are split where they are, with their state; all else along the batch."""
    if view.kind in WITHOUT_BATCH:
        return view.or_idle(view.on_experts)
    if view.kind is Kind.MATMUL and view.on_experts.any():
        return view.on_experts
    return view.or_idle(view.on_batch | view.on_experts)


STRATEGY = Strategy(
    name="expert_parallel",
    source="Lepikhin et al., 'GShard', arXiv:2006.16668, 2020, section 3; Fedus et al., 'Switch"
    " Transformers', arXiv:2101.03961, 2021, section 5",
    rules={"data": over_data},
    demands={"data": Demand.EXPERTS},
)
