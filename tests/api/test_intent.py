"""What users want beside speed is kept, or refused with its reason."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from autoshard import IntentError, autoshard, forbid, pin, plan, prefer, tie

MESH = {"data": 4, "tensor": 2}


def step(state, x):
    def loss(params):
        hidden = jnp.tanh(x @ params["up"])
        return jnp.mean((hidden @ params["down"]) ** 2)

    value, grads = jax.value_and_grad(loss)(state["params"])
    momentum = jax.tree.map(lambda m, g: 0.9 * m + g, state["momentum"], grads)
    params = jax.tree.map(lambda p, m: p - 0.1 * m, state["params"], momentum)
    return {"params": params, "momentum": momentum}, value


def arguments():
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "up": jax.random.normal(keys[0], (64, 256)),
        "down": jax.random.normal(keys[1], (256, 64)),
    }
    state = {"params": params, "momentum": jax.tree.map(jnp.zeros_like, params)}
    return state, jax.random.normal(keys[2], (32, 64))


def planned(*intent, mesh=None, **options):
    mesh = MESH if mesh is None else mesh
    return plan(step, *arguments(), on="cpu:8", mesh=mesh, intent=intent, **options)


def spec(p, path):
    (found,) = (leaf.spec for leaf in p.inputs if leaf.path == path)
    return str(found)


@pytest.mark.parametrize("path", ["state/params/up", "params/up", "up", "*/up", "params/u?"])
def test_a_pin_is_kept(path):
    p = planned(pin(path, P("tensor", "data")))
    assert spec(p, "state['params']['up']") == "P('tensor', 'data')"


def test_a_short_spec_leaves_the_rest_whole():
    p = planned(pin("params/down", P("tensor")))
    assert spec(p, "state['params']['down']") == "P('tensor', None)"


def test_a_banned_axis_splits_nothing_there():
    p = planned(forbid("params/*", "data", "tensor"))
    assert spec(p, "state['params']['up']") == spec(p, "state['params']['down']") == "P(None, None)"


def test_tied_leaves_rest_alike():
    apart = (
        pin("params/up", P("tensor", "data")),
        prefer("momentum/up", P("data", "tensor"), price_s=1.0),
    )
    assert spec(planned(*apart), "state['momentum']['up']") == "P('data', 'tensor')"
    p = planned(*apart, tie("momentum/*", "params/*"))
    assert spec(p, "state['momentum']['up']") == "P('tensor', 'data')"
    assert spec(p, "state['momentum']['down']") == spec(p, "state['params']['down']")


def test_a_preference_has_its_price():
    plain = planned()
    other = P("tensor", "data")
    cheap = planned(prefer("params/up", other, price_s=1e-12))
    assert cheap.prediction.step_s == pytest.approx(plain.prediction.step_s)
    dear = planned(prefer("params/up", other, price_s=1.0))
    assert spec(dear, "state['params']['up']") == "P('tensor', 'data')"
    assert dear.prediction.step_s >= plain.prediction.step_s
    assert dear.prediction.step_s < 1.0  # the price is no time


def test_numbers_do_not_change():
    state, x = arguments()
    expected = jax.jit(step)(state, x)
    run = autoshard(step, mesh=MESH, intent=[pin("params/*", P("tensor", "data"))])
    found = run(state, x)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), found, expected
    )


@pytest.mark.parametrize(
    ("intent", "parts"),
    [
        ([pin("params/sideways", P())], ["no input matches 'params/sideways'", "5 leaves"]),
        ([pin("params/up", P("model"))], ["no axis 'model'", "'data', 'tensor'"]),
        ([pin("params/up", P(None, None, "data"))], ["has 2 dimensions, the spec 3"]),
        (
            [pin("params/up", P("data")), pin("*/up", P("tensor"))],
            ["pin('*/up', P('tensor'))", "contradicts pin('params/up', P('data'))"],
        ),
        (
            [pin("params/up", P("data")), forbid("params/up", "data")],
            ["forbid('params/up', 'data')", "contradicts", "both about state/params/up"],
        ),
        ([tie("params/up", "params/down")], ["64x256", "nothing else"]),
    ],
)
def test_what_cannot_be_is_said(intent, parts):
    with pytest.raises(IntentError) as error:
        planned(*intent)
    for part in (*parts, "test_intent.py:"):
        assert part in str(error.value)


def test_a_dimension_that_does_not_divide_is_named():
    def odd(w, x):
        return w - jax.grad(lambda w: jnp.sum((x @ w) ** 2))(w)

    with pytest.raises(
        IntentError, match=r"dimension 1 of w has 6 elements, which data 4 does not"
    ):
        plan(
            odd, jnp.ones((8, 6)), jnp.ones((4, 8)), on="cpu:8", mesh=MESH,
            intent=[pin("w", P(None, "data"))],
        )  # fmt: skip


def test_meshes_on_which_a_pin_is_impossible_are_left_out():
    p = planned(pin("params/up", P("tensor")), mesh="auto")
    assert p.mesh.sizes["tensor"] in (1, 2, 4, 8)
    assert spec(p, "state['params']['up']") in ("P('tensor', None)", "P(None, None)")


# -- the user's own constraints ----------------------------------------------------------------


def own_mesh():
    return jax.make_mesh((4, 2), ("batch", "model"), axis_types=(AxisType.Auto,) * 2)


def constrained(mesh, *dims):
    def forward(w, x):
        hidden = jax.lax.with_sharding_constraint(jnp.tanh(x @ w), NamedSharding(mesh, P(*dims)))
        return jnp.sum(hidden**2)

    return lambda w, x: w - 0.1 * jax.grad(forward)(w, x)


def test_a_constraint_inside_the_step_is_kept_on_its_own_mesh():
    w, x = jnp.ones((64, 128)), jnp.arange(32 * 64.0).reshape(32, 64) / 2048
    f = constrained(own_mesh(), None, "model")
    p = plan(f, w, x, on="cpu:8")
    assert p.mesh.sizes == {"batch": 4, "model": 2}
    said = [c for c in p.constraints if c.primitive == "sharding_constraint"]
    assert any(str(s) == "P(None, 'model')" for c in said for s in c.specs)
    np.testing.assert_allclose(autoshard(f)(w, x), jax.jit(f)(w, x), rtol=2e-5)


def test_an_open_dimension_is_the_searchs_to_choose():
    w, x = jnp.ones((64, 128)), jnp.ones((4096, 64))
    p = plan(constrained(own_mesh(), P.UNCONSTRAINED, "model"), w, x, on="cpu:8")
    specs = {str(s) for c in p.constraints if c.primitive == "sharding_constraint" for s in c.specs}
    assert any("'model'" in s for s in specs)


def test_a_constraint_that_names_no_axis_of_the_given_mesh_is_refused():
    w, x = jnp.ones((64, 128)), jnp.ones((32, 64))
    with pytest.raises(IntentError, match=r"test_intent.py:\d+: the mesh .* has no axis 'model'"):
        plan(constrained(own_mesh(), None, "model"), w, x, on="cpu:8", mesh=MESH)


def test_a_constraint_on_a_mesh_of_another_size_is_refused():
    w, x = jnp.ones((64, 128)), jnp.ones((32, 64))
    with pytest.raises(IntentError, match="are on a mesh batch 4 x model 2"):
        plan(constrained(own_mesh(), None, "model"), w, x, on="v5e:4x4")
