"""Model zoo: ordinary JAX train steps, one file a model. Nothing here knows autoshard.

Every model module offers the same few names:

* `Config`: a frozen dataclass, and `CONFIGS`, its named instances;
* `init(key, config)`: the training state, `{"params", "opt_state", "step"}`;
* `make_train_step(config)`: `train_step(state, batch) -> (state, metrics)`, for one device;
* `example_inputs(config, batch_size)`: `(state, batch)` with values;
* `abstract_inputs(config, batch_size)`: the same as shapes, for a model that fits nowhere;
* `flops(config, batch_size)`: matmul FLOPs of one train step.

`gpt_nnx` keeps Flax NNX's own shape instead: a model and an optimizer that are mutated.
`gpt_serve` does not train: it has `make_step`, and says itself what may be donated.
`parts` and `training` hold what several models share.
"""
