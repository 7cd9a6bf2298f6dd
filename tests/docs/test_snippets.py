"""Every snippet in README.md and docs/*.md runs, and prints what the page says it prints.

A `python` block runs in its page's namespace, on eight CPU devices; the `text` block after it is
its output. A `console` block holds `$ command` lines and their outputs. Times, sizes and ratios
are not compared (the cost model may be refined), and a line `...` stands for any lines.
`UPDATE_DOCS=1 pytest tests/docs` rewrites the outputs.
"""

import contextlib
import difflib
import io
import itertools
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
NUMBER = re.compile(r"(<=? ?)?\b\d[\d.,]*( ?(us|ms|s|min|B|KiB|MiB|GiB|GB|%|x))\b|\b\d[\d.]* %")
TABLE_LINE = re.compile(r"[─━]+")
UPDATE = bool(os.environ.get("UPDATE_DOCS"))


@dataclass(frozen=True)
class Block:
    kind: str
    text: str
    start: int
    end: int


def blocks(page: str) -> list[Block]:
    return [Block(m[1], m[2], m.start(2), m.end(2)) for m in FENCE.finditer(page)]


def comparable(line: str) -> str:
    """A line without what may change: amounts, and the blanks that set them in columns."""
    return " ".join(TABLE_LINE.sub("--", NUMBER.sub("#", line)).split())


def matches(printed: str, shown: str) -> bool:
    """Whether output is what a page shows, whose `...` lines stand for any lines."""
    said = [comparable(line) for line in shown.strip().splitlines()]
    pattern = "".join(r"(?:.*\n)*?" if s == "..." else re.escape(s) + r"\n" for s in said)
    lines = (comparable(line) + "\n" for line in printed.strip().splitlines())
    return re.fullmatch(pattern, "".join(lines)) is not None


def rewritten(printed: str, shown: str) -> str:
    """New output, cut where the page had cut the old."""
    lines, old = printed.rstrip().splitlines(), shown.rstrip().splitlines()
    if "..." in old:
        at = old.index("...")
        lines = [*lines[:at], "...", *lines[len(lines) - (len(old) - at - 1) :]]
    return "\n".join(lines) + "\n"


def check(page: Path, printed: str, shown: str, start: int, fixes: list) -> None:
    if matches(printed, shown):
        return
    if UPDATE:
        fixes.append((start, start + len(shown), rewritten(printed, shown)))
        return
    diff = difflib.unified_diff(shown.splitlines(), printed.splitlines(), page.name, "printed")
    pytest.fail("\n".join(diff), pytrace=False)


def run_python(code: str, namespace: dict, first_line: int) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile("\n" * first_line + code, "train.py", "exec"), namespace)
    return out.getvalue()


def run_console(command: str, folder: Path) -> str:
    bin_folder = str(Path(sys.executable).parent)
    env = os.environ | {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "AUTOSHARD_PROGRESS": "0",
        "COLUMNS": "100",
    }
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, cwd=folder, env=env, timeout=120
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout + (done.stderr if done.returncode else "")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_snippets_print_what_the_page_shows(page, tmp_path, monkeypatch, devices):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("AUTOSHARD_PROGRESS", "0")
    found = blocks(page.read_text(encoding="utf-8"))
    namespace: dict = {"__name__": "train"}
    fixes: list[tuple[int, int, str]] = []
    first_line = 0
    for block, after in itertools.zip_longest(found, found[1:]):
        if block.kind == "python":
            printed = run_python(block.text, namespace, first_line)
            first_line += block.text.count("\n")
            shown, start = (after.text, after.start) if after and after.kind == "text" else ("", 0)
            check(page, printed, shown, start, fixes)
        elif block.kind == "console":
            for part in re.finditer(COMMAND, block.text):
                start = block.start + part.start(2)
                check(page, run_console(part[1], tmp_path), part[2], start, fixes)
    if fixes:
        text = page.read_text(encoding="utf-8")
        for start, end, new in reversed(fixes):
            text = text[:start] + new + text[end:]
        page.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_make_targets_and_files_named_on_a_page_exist(page):
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b(?= *(?:#|$|`))", text, re.MULTILINE)) <= targets
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), f"{page.name} links to {link}"
    for path in re.findall(r"`([a-z_]+/[a-z_/]*\.py)`", text):
        assert any((base / path).exists() for base in (ROOT, ROOT / "autoshard")), path


def test_the_comparison_can_fail():
    assert matches("a 3.1 ms\nb\nc\n", "a  12 ms\n...\nc\n")
    assert not matches("a 3.1 ms\nb\n", "a 3.1 ms\n")
    assert not matches("P('data', None)\n", "P(None, 'data')\n")
    assert not matches("mesh data 8\n", "mesh data 4\n")
