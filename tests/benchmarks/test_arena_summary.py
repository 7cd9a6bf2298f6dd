"""Ratios, means and the table of the arena."""

from __future__ import annotations

import pytest

from benchmarks.arena.judge import geometric_mean
from benchmarks.arena.summary import Bout, Results, Row, kind_of, line, summary, table, told


def _row(who: str, step_s: float, fits: bool = True) -> Row:
    return Row(who, "data 8", 1.5, 2**30, fits, step_s, step_s, 0.0, 0.0)


_WON = Bout("a", "v5e:2x4", 8, (_row("auto", 1.0), _row("zero3", 2.0), _row("XLA AUTO 8 GB", 4.0)))
_LOST = Bout("b", "v5e:2x4", 8, (_row("auto", 2.0), _row("zero3", 4.0), _row("XLA AUTO 8 GB", 1.0)))


def test_kinds() -> None:
    who = ("auto", "auto, any form", "zero3", "XLA AUTO 8 GB")
    assert [kind_of(w) for w in who] == ["auto", "forms", "expert", "xla"]


def test_ratio_is_to_the_best_that_fits() -> None:
    assert _WON.ratio == 0.5
    assert _LOST.ratio == 2.0
    over = Bout("c", "v5e:2x4", 8, (_row("auto", 1.0), _row("zero3", 0.1, False), _row("zero1", 2)))
    assert over.ratio == 0.5


def test_the_form_left_open_is_rated_apart() -> None:
    rows = (_row("auto", 1.0), _row("auto, any form", 0.5), _row("zero3", 2.0))
    bout = Bout("e", "v5e:2x4", 8, rows)
    assert (bout.ratio, bout.ratio_of("forms")) == (0.5, 0.25)
    assert summary([bout]).forms_geometric_mean == pytest.approx(0.25)
    assert summary([_WON]).forms_geometric_mean == 1.0


def test_nobody_to_compare_with_is_no_ratio() -> None:
    assert Bout("d", "v5e:2x4", 8, (_row("auto", 1.0),)).ratio is None
    assert Bout("d", "v5e:2x4", 8, (_row("zero3", 1.0),)).ratio is None


def test_summary() -> None:
    s = summary([_WON, _LOST, Bout("d", "v5e:2x4", 8, (_row("zero1", 1.0, False),))])
    assert s.bouts == 2
    assert s.geometric_mean == pytest.approx(1.0)
    assert (s.worst, s.worst_case) == (2.0, "b, batch 8 on v5e:2x4")
    assert s.against_expert == pytest.approx(0.5)
    assert s.against_xla == pytest.approx((0.25 * 2.0) ** 0.5)
    assert s.over_memory == ("zero1 (data 8) in d, batch 8 on v5e:2x4",)
    assert "geometric mean 1.000, worst 2.000 (b, batch 8 on v5e:2x4)" in told(s)


def test_mean_of_none_is_one() -> None:
    assert geometric_mean([]) == 1.0
    assert summary([]).bouts == 0


def test_the_table_says_who_does_not_fit_and_why_there_are_no_numbers() -> None:
    refused = Row("expert_parallel", remark="StrategyError: no experts")
    bout = Bout("a", "v5e:2x4", 8, (_row("auto", 1.0), _row("zero3", 2.0, False), refused))
    lines = table(bout).splitlines()
    assert lines[0] == "a, batch 8 on v5e:2x4"
    assert " yes " in lines[2]
    assert lines[2].endswith("1.000")
    assert " NO " in lines[3]
    assert lines[3].endswith("2.000")
    assert lines[4].endswith("StrategyError: no experts")
    assert "1.00 GiB" in line(_row("auto", 1.0), None)


def test_bouts_that_were_not_fought_again_stay() -> None:
    compilers = {"autoshard": {"jax": "1"}}

    def results(*bouts: Bout, command: str) -> Results:
        return Results((command,), compilers, summary(bouts), bouts)

    old, other = Bout("a", "v5e:2x4", 8, (_row("auto", 1.0),)), Bout("b", "v5e:2x4", 8, ())
    new = Bout("a", "v5e:2x4", 8, (_row("auto", 2.0), _row("zero3", 1.0)))
    found = results(new, command="two").beside(results(old, other, command="one"))
    assert found.bouts == (other, new)
    assert found.commands == ("one", "two")
    assert found.summary.worst == 2.0


def test_results_of_other_compilers_are_not_mixed() -> None:
    one, two = (Results((), {"autoshard": {"jax": v}}, summary(()), ()) for v in "12")
    with pytest.raises(ValueError, match="write them to another file"):
        one.beside(two)
