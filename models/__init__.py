"""Model zoo: ordinary JAX train steps, one file a model. Nothing here knows autoshard."""
