"""Data parallelism: the batch is split, every device holds all state."""

from autoshard.search.strategy import Strategy, replicas

STRATEGY = Strategy(
    name="data_parallel",
    source="Krizhevsky, 'One weird trick for parallelizing CNNs', arXiv:1404.5997, 2014",
    rules={"data": replicas},
)
