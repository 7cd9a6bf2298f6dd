"""Tables and plots of committed results, for the pages in docs/.

`python -m benchmarks figures` writes docs/plots/*.svg and the tables between the markers
`<!-- begin: NAME -->` and `<!-- end -->` of docs/*.md anew. Nothing here is typed in: what a table
says is in benchmarks/results, each file with the command that made it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PLOTS = ROOT / "docs" / "plots"
_BLOCK = re.compile(r"(<!-- begin: ([\w-]+) -->\n).*?(<!-- end -->)", re.S)
_GIB = 2.0**30

Result = Mapping[str, Any]


def main(argv: list[str] | None = None) -> int:
    """Write all of them; 0, or 1 where a page asks for a table that there is not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks figures", description=__doc__)
    parser.add_argument("--no-plots", action="store_true", help="tables only, without matplotlib")
    args = parser.parse_args(argv)
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(f"wrote {page.relative_to(ROOT)}")
    if not args.no_plots:
        for name, (draw, source) in FIGURES.items():
            _plot(PLOTS / f"{name}.svg", draw, _result(source))
            print(f"wrote docs/plots/{name}.svg")
    return 0


def pages() -> Iterator[Path]:
    """The pages that have tables of results."""
    for page in sorted((ROOT / "docs").glob("*.md")):
        names = {found[2] for found in _BLOCK.finditer(page.read_text(encoding="utf-8"))}
        if names & set(TABLES):
            yield page


def filled(page: str) -> str:
    """A page with its tables made anew."""

    def made(block: re.Match[str]) -> str:
        if block[2] not in TABLES:
            return block[0]
        table, source = TABLES[block[2]]
        return f"{block[1]}{table(_result(source))}\n{block[3]}"

    return _BLOCK.sub(made, page)


def _result(name: str) -> Result:
    """One benchmark's results; those of several runs, `NAME-*.json`, together."""
    files = [RESULTS / f"{name}.json", *sorted(RESULTS.glob(f"{name}-*.json"))]
    found: dict[str, Any] = {}
    for file in (f for f in files if f.is_file()):
        for key, value in json.loads(file.read_text(encoding="utf-8")).items():
            if isinstance(value, list):
                found[key] = [*found.get(key, []), *value]
            elif isinstance(value, dict):
                found[key] = {**found.get(key, {}), **value}
            else:
                found[key] = value
    return found


# -- tables --------------------------------------------------------------------------------------


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; all columns but the first are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _compiled_summary(result: Result) -> str:
    rows = [
        [
            name,
            str(s["pairs"]),
            f"{s['memory_median']:.1%}",
            f"{s['memory_under']:+.1%}",
            f"{s['memory_over']:+.1%}",
            f"{s['sent_near']:.0%}",
        ]
        for name, s in result["summary"].items()
    ]
    head = ["compiler", "pairs", "peak, median error", "lowest", "highest", "bytes sent within 5 %"]
    return markdown(head, rows)


def _compiled_models(result: Result) -> str:
    groups: dict[tuple[str, str], list[Result]] = {}
    for p in result["pairs"]:
        if "compiled_peak_bytes" in p:
            groups.setdefault((_model(p), _machine(p["on"])), []).append(p)
    rows = [
        [
            f"{model} on {machine}",
            str(len(found)),
            f"{median(map(_gib('predicted'), found)):.2f}",
            f"{median(map(_gib('compiled'), found)):.2f}",
            f"{median(abs(_peak_error(p)) for p in found):.1%}",
            f"{max((_peak_error(p) for p in found), key=abs):+.1%}",
        ]
        for (model, machine), found in sorted(groups.items())
    ]
    head = ["model", "pairs", "predicted GiB", "compiled GiB", "median error", "worst"]
    return markdown(head, rows)


def _model(pair: Result) -> str:
    changes = "".join(f", {k} {v}" for k, v in pair["changes"].items())
    return f"{pair['model']}{changes}"


def _machine(on: str) -> str:
    """The kind of machine: TPU of a generation, or H100."""
    return re.split(r"[:x]", on)[-1] if "x" in on and ":" not in on else on.split(":")[0]


def _gib(whose: str) -> Callable[[Result], float]:
    return lambda pair: float(pair[f"{whose}_peak_bytes"]) / _GIB


def _peak_error(pair: Result) -> float:
    return float(pair["predicted_peak_bytes"] / pair["compiled_peak_bytes"] - 1)


def _pipelined(result: Result) -> str:
    pairs = [p for p in result["pairs"] if "over_pipe" in p]
    purposes = list(pairs[0]["over_pipe"]["planned"])
    rows = []
    for p in pairs:
        sent = p["over_pipe"]
        whole = sum(c["compiled_bytes"] for c in p["collectives"])
        unplanned = sent["unplanned"]["bytes"], sent["unplanned_elsewhere"]["bytes"]
        rows.append(
            [
                f"{_pipelined_model(p)} on {p['on']}",
                " x ".join(str(size) for size in p["asked"]["mesh"].values()),
                str(p["microbatches"]),
                f"{_gib('predicted')(p):.2f}",
                f"{_gib('compiled')(p):.2f}",
                f"{_peak_error(p):+.1%}",
                *(_sent(sent["planned"][name]) for name in purposes),
                *(f"{size / whole:.1%}" for size in unplanned),
            ]
        )
    head = [
        "model",
        "pipe x data x tensor",
        "microbatches",
        "predicted GiB",
        "compiled GiB",
        "error",
        *purposes,
        "unplanned over pipe",
        "unplanned elsewhere",
    ]
    return markdown(head, rows)


def _pipelined_model(pair: Result) -> str:
    remat = ", remat" if pair["asked"].get("remat") else ""
    return f"{_model(pair)}, batch {pair['batch_size']}{remat}"


def _sent(amount: Result) -> str:
    """Such as "6: 24.0 MiB"."""
    return f"{amount['count']}: {amount['bytes'] / 2**20:,.1f} MiB" if amount["count"] else "-"


def _published_summary(result: Result) -> str:
    names = {
        "held_out": "held out",
        "fitted_on": "fitted on",
        "all": "all",
        "with_pipelines": "of groups with pipelines",
        "without_pipelines": "without pipelines",
        "interleaved": "interleaved, by themselves",
    }
    rows = [
        [
            names[name],
            str(s["rows"]),
            _optional(s["median_error_step"], ".1%"),
            _optional(s["median_error_memory"], ".1%"),
            _optional(s["median_spearman"], ".2f"),
            _optional(s["median_regret"], ".3f"),
            _optional(s["worst_regret"], ".3f"),
        ]
        for name, s in result["summary"].items()
    ]
    head = [
        "runs",
        "number",
        "step, median error",
        "memory, median error",
        "rank (Spearman), median",
        "regret, median",
        "regret, worst",
    ]
    return markdown(head, rows)


def _published_groups(result: Result) -> str:
    rows = [
        [
            g["group"],
            str(g["rows"]),
            _optional(g["regret"], ".3f"),
            _optional(g["spearman"], ".2f"),
            _optional(g["median_error_step"], ".1%"),
            _optional(g["median_error_memory"], ".1%"),
        ]
        for g in result["groups"]
        if g["group"] and g["regret"] is not None
    ]
    head = ["group", "runs", "regret", "rank", "step error", "memory error"]
    return markdown(head, rows)


def _optional(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _costing(result: Result) -> str:
    rows = [
        [
            r["model"] + "".join(f", {k} {v}" for k, v in r["changes"].items()),
            str(r["ops"]),
            str(r["decisions"]),
            f"{r['tables_s']:.2f} s",
            f"{r['one_plan_s'] * 1e3:.2f} ms",
        ]
        for r in result["rows"]
    ]
    return markdown(["model", "ops", "decisions", "tables of one mesh", "one plan"], rows)


_OUTCOME = ("memory", "predicted step", "best expert", "gap", "meshes left open")


def _outcome(row: Result) -> list[str]:
    """The cells of what planning came to, under `_OUTCOME`."""
    return [
        f"{row['peak_rss_bytes'] / 1e9:.1f} GB",
        f"{row['predicted_step_s'] * 1e3:.1f} ms",
        f"{row['floor_step_s'] * 1e3:.1f} ms" if row["floor"] else "none fits",
        f"{row['gap']:.2%}",
        str(row["open_meshes"] or "-"),
    ]


def _planning(result: Result) -> str:
    rows = [
        [
            f"{_model(r)} on {r['on']}",
            f"{r['cold_s']:.1f} s",
            f"{r['planning_s']:.1f} s",
            *_outcome(r),
        ]
        for r in result["rows"]
    ]
    head = [
        "model",
        "first plan",
        "next",
        *_OUTCOME,
    ]
    return markdown(head, rows)


def _scale(result: Result) -> str:
    rows = [
        [
            f"{r['program']}, {r['count']}",
            f"{r['equations']:,}",
            f"{r['decisions']:,}",
            f"{r['planning_cpu_s']:.1f} s",
            f"{r['planning_s']:.1f} s",
            f"{r['trace_s']:.1f} s",
            *_outcome(r),
        ]
        for r in result["rows"]
    ]
    head = [
        "program",
        "equations",
        "decisions",
        "planning, CPU",
        "by the clock",
        "of it tracing",
        *_OUTCOME,
    ]
    return markdown(head, rows)


def _growth(result: Result) -> str:
    fits = result["growth"]
    stages = list(next(iter(fits.values())))
    rows = [[kind, *(f"{fit[stage]:.2f}" for stage in stages)] for kind, fit in fits.items()]
    return markdown(["program", *(stage.removesuffix("_s") for stage in stages)], rows)


# Least cost of any public answer, as of the contest's end: scores of all teams and of XLA
# (https://github.com/google/iopddl) and the winner's later runs.
_BEST_PUBLIC = {
    "A": 6548641531,
    "B": 532843,
    "C": 84102445244,
    "G": 217039,
    "K": 2242635780,
    "M": 49928157500,
    "S": 1521949310,
    "V": 1617084,
}


def _contest(result: Result) -> str:
    rows = []
    for r in sorted(result["rows"], key=lambda r: str(r["instance"])):
        name = re.split(r"[-.]", Path(r["instance"]).name)[3]
        rows.append(
            [
                name,
                f"{r['cost']:,}",
                f"{r['cost'] / _BEST_PUBLIC[name] - 1:+.4%}",
                f"{r['lower_bound']:,}",
                "0" if r["optimal"] else f"{r['gap']:.2g}",
                f"{r['seconds']:.0f} s",
            ]
        )
    head = ["instance", "cost", "against the best public one", "bound", "gap", "time"]
    return markdown(head, rows)


def _bouts(result: Result) -> Iterator[tuple[str, dict[str, Result]]]:
    """Every bout: its name, and the quickest that fits of every kind."""
    from benchmarks.arena.summary import kind_of

    for bout in result["bouts"]:
        best: dict[str, Result] = {}
        for row in bout["rows"]:
            kind = kind_of(row["who"])
            if row.get("fits") and "step_s" in row:
                known = best.get(kind)
                if known is None or row["step_s"] < known["step_s"]:
                    best[kind] = row
        yield f"{bout['case']}, batch {bout['batch_size']} on {bout['on']}", best


_KINDS = {"expert": "best expert", "xla": "XLA AUTO", "peer": "parallax"}


def _arena(result: Result) -> str:
    def cell(row: Result | None) -> str:
        if row is None:
            return "-"
        who = row["who"].replace("auto, any form", "").replace("XLA AUTO", "").strip()
        name = "" if who in ("auto", "parallax") else f" {who}"
        return f"{row['step_s'] * 1e3:.1f} ms ({row['peak_bytes'] / _GIB:.1f}){name}"

    rows = []
    for title, best in _bouts(result):
        auto, others = best.get("auto"), [best[k] for k in _KINDS if k in best]
        ratio = (
            f"{auto['step_s'] / min(o['step_s'] for o in others):.3f}" if auto and others else "-"
        )
        rows.append([title, cell(auto), *(cell(best.get(k)) for k in _KINDS), ratio])
    whole = result["summary"]
    return (
        markdown(["step (GiB)", "auto", *_KINDS.values(), "auto / best other"], rows)
        + f"\n\nAuto over the best other: geometric mean {whole['geometric_mean']:.3f} over"
        f" {whole['bouts']} bouts, worst {whole['worst']:.3f} ({whole['worst_case']}); with the"
        f" form of the step left open {whole['forms_geometric_mean']:.3f}."
    )


_KEPT = re.compile(r"kept whole: (\w+)")


def _wild(result: Result) -> str:
    def cells(name: str, rows: Sequence[Result]) -> list[str]:
        ran = [r for r in rows if r["max_relative_error"] is not None]
        kept = {kind for r in rows for note in r["replicated"] for kind in _KEPT.findall(note)}
        return [
            name,
            str(len({r["name"] for r in rows})),
            str(len(rows)),
            *(
                str(sum(r["status"] == s for r in rows))
                for s in ("ok", "refused", "wrong", "error")
            ),
            f"{max((r['max_relative_error'] for r in ran), default=0.0):.1e}",
            ", ".join(sorted(kept)) or "-",
        ]

    packages: dict[str, list[Result]] = {}
    for row in result["rows"]:
        packages.setdefault(row["package"], []).append(row)
    head = [
        *("package", "programs", "plans", "match", "refused", "wrong", "crash"),
        *("largest error", "kept whole"),
    ]
    of_packages = [cells(name, packages[name]) for name in sorted(packages)]
    return markdown(head, [*of_packages, cells("all", result["rows"])])


def _pipelines(result: Result) -> str:
    def said(one: Result) -> list[str]:
        if "least_bytes" in one:
            return [f"nothing fits below {one['least_bytes'] / _GIB:.0f} GiB", "-", "-"]
        mesh = " x ".join(f"{name} {size}" for name, size in one["mesh"].items() if size > 1)
        form = ", ".join(x for x in (mesh, one["form"]) if x)
        step = f"{one['predicted_step_s']:.2f} s"
        return [form, step, f"{one['predicted_peak_bytes'] / _GIB:.1f} GiB"]

    rows = []
    for r in result["rows"]:
        cpu = [r[name]["planning_cpu_s"] for name in ("without", "auto")]
        for name in ("without", "auto"):
            stages = {"without": "never", "auto": "as the search decides"}[name]
            took = f"{r[name]['planning_cpu_s']:.0f} s"
            ratio = f"{cpu[1] / cpu[0]:.1f}" if name == "auto" else ""
            first = f"{r['model']}, batch {r['batch']}, {r['on']}" if name == "without" else ""
            rows.append([first, stages, *said(r[name]), took, ratio])
    head = [
        "step",
        "stages",
        "plan",
        "predicted step",
        "predicted memory",
        "planning, CPU",
        "to that without",
    ]
    return markdown(head, rows)


# name in the page -> (what makes it, the result it is made from)
TABLES: dict[str, tuple[Callable[[Result], str], str]] = {
    "compiled-summary": (_compiled_summary, "compiled"),
    "compiled-models": (_compiled_models, "compiled"),
    "pipelined-summary": (_compiled_summary, "pipelined"),
    "pipelined": (_pipelined, "pipelined"),
    "published-summary": (_published_summary, "published"),
    "published-groups": (_published_groups, "published"),
    "costing": (_costing, "costing"),
    "pipelines": (_pipelines, "pipelines"),
    "planning": (_planning, "planning"),
    "scale": (_scale, "scale"),
    "scale-growth": (_growth, "scale"),
    "contest": (_contest, "contest"),
    "arena": (_arena, "arena"),
    "wild": (_wild, "wild"),
}


# -- plots ---------------------------------------------------------------------------------------


def _draw_compiled(result: Result, axes: Any) -> None:
    series: dict[str, list[tuple[float, float]]] = {}
    for p in result["pairs"]:
        if "compiled_peak_bytes" in p:
            point = (_gib("compiled")(p), _gib("predicted")(p))
            series.setdefault(_machine(p["on"]), []).append(point)
    _against(axes, series, "compiled peak per device, GiB", "predicted, GiB")


def _draw_steps(result: Result, axes: Any) -> None:
    _against(
        axes,
        _by_framework(result, "measured_step_s", "predicted_step_s", 1.0),
        "measured step, s",
        "predicted, s",
    )


def _draw_memory(result: Result, axes: Any) -> None:
    _against(
        axes,
        _by_framework(result, "measured_memory_bytes", "predicted_peak_bytes", _GIB),
        "measured memory per device, GiB",
        "predicted, GiB",
    )


def _by_framework(
    result: Result, x: str, y: str, unit: float
) -> dict[str, list[tuple[float, float]]]:
    series: dict[str, list[tuple[float, float]]] = {}
    for r in result["rows"]:
        if r[x] is not None and r[y] is not None:
            name = str(r["framework"]).split(" (")[0].split(" /")[0]
            series.setdefault(name, []).append((r[x] / unit, r[y] / unit))
    return series


def _against(
    axes: Any, series: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str
) -> None:
    """Points against the diagonal, with the lines 15 % beside it."""
    every = [v for points in series.values() for point in points for v in point]
    ends = [min(every) / 1.2, max(every) * 1.2]
    axes.plot(ends, ends, color="#888", linewidth=1, zorder=0)
    for factor in (1.15, 1 / 1.15):
        axes.plot(ends, [e * factor for e in ends], color="#ccc", linewidth=0.8, zorder=0)
    for name, points in sorted(series.items()):
        axes.scatter(*zip(*points, strict=True), s=14, alpha=0.7, label=f"{name} ({len(points)})")
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y, xlim=ends, ylim=ends)
    axes.set_aspect("equal")
    axes.legend(frameon=False, fontsize=7)


def _draw_arena(result: Result, axes: Any) -> None:
    """Steps of others over auto's; to the right of 1 they are slower."""
    bouts = [(title, best) for title, best in _bouts(result) if "auto" in best]
    for kind, name in _KINDS.items():
        points = [
            (best[kind]["step_s"] / best["auto"]["step_s"], -k)
            for k, (_, best) in enumerate(bouts)
            if kind in best
        ]
        if points:
            axes.scatter(*zip(*points, strict=True), s=28, label=name)
    axes.axvline(1.0, color="#888", linewidth=1, zorder=0)
    axes.set_yticks([-k for k in range(len(bouts))], [title for title, _ in bouts], fontsize=7)
    axes.set(xlabel="estimated step, over that of auto")
    axes.legend(frameon=False, fontsize=7)


# name of the file -> (what draws it, the result it is drawn from)
FIGURES: dict[str, tuple[Callable[[Result, Any], None], str]] = {
    "compiled-memory": (_draw_compiled, "compiled"),
    "published-steps": (_draw_steps, "published"),
    "published-memory": (_draw_memory, "published"),
    "arena": (_draw_arena, "arena"),
}


def _plot(file: Path, draw: Callable[[Result, Any], None], result: Result) -> None:
    import matplotlib

    matplotlib.use("svg")
    # Equal results give equal files.
    matplotlib.rcParams["svg.hashsalt"] = file.stem
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.2, 5.2), layout="constrained")
    draw(result, axes)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
