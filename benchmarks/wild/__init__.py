"""Train steps whose models nobody here wrote: planned, run, and compared with plain `jax.jit`."""
