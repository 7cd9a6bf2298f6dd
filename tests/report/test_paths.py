"""Names of groups tell the truth about what is in them."""

import pytest

from autoshard.report import paths


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("state['params']['up']", ("state", "params", "up")),
        ("state[0].mu['a.b'][12]", ("state", "0", "mu", "a.b", "12")),
        ("['loss']", ("loss",)),
        ("[0].count", ("0", "count")),
        ("x", ("x",)),
        ("odd][path", ("odd][path",)),
        ("", ("",)),
    ],
)
def test_steps(path, steps):
    assert paths.steps(path) == steps


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (["s['a']"], "s/a"),
        (["s['a']['w']", "s['b']['w']"], "s/{a,b}/w"),
        ([f"s[{i}]['w']" for i in range(24)], "s/0-23/w"),
        ([f"s[{i}]['w']" for i in (0, 2)], "s/{0,2}/w"),
        # Not every combination is there: braces would claim more than is.
        (["s['a']['x']", "s['b']['y']", "s['a']['y']"], "s/..."),
        ([f"s['{c}']['k']" for c in "abcdef"], "s/.../k"),
        (["s['a']", "s['b']['c']"], "s/a, s/b/c"),
        (["s['a']['k']", "s['b']['c']['k']", "s['k']"], "s/.../k"),
    ],
)
def test_pattern(names, name):
    assert paths.pattern(names) == name


def test_root_and_below():
    names = ["state['p']['a']", "state['p']['b']['c']"]
    assert paths.root(names) == ("state", "p")
    assert paths.pattern(names, 2) == "a, b/c"
    assert paths.root(["x"]) == ()


def test_lines_name_each_file_once():
    assert paths.lines(["/a/gpt.py:9", "/a/gpt.py:120", "/b/opt.py:3", "/a/gpt.py:9", ""]) == (
        "gpt.py:9, 120; opt.py:3"
    )
    assert paths.lines([]) == ""
    assert paths.lines(f"a.py:{k}" for k in range(12)) == "a.py:0, 1, 2, 3, 4, ... 7 more"


def test_types():
    assert paths.tensor("bfloat16", (4, 2)) == "bf16[4,2]"
    assert paths.tensor("uint8", ()) == "u8[]"
    assert paths.tensor("float8_e4m3fn", (1,)) == "f8_e4m3fn[1]"
    assert paths.tensor("bool", (1,)) == "bool[1]"
    assert paths.shorten("carry of float32[2,3]") == "carry of f32[2,3]"
