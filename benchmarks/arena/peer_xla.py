"""A peer: the automatic sharding pass of XLA's TPU compiler, Alpa's successor.

JAX removed it (`AUTO` shardings) in 0.10.1, so it runs in an environment of its own, made on
demand in the user's cache directory, with the last JAX that has it and that JAX's libtpu. It takes
a mesh and a memory budget and decides the rest; both are swept. It says nothing of how long it
searches, so its planning time is that of lowering and compiling as a whole.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from autoshard.machine import Machine, mesh_from_sizes
from benchmarks.arena.cases import Case
from benchmarks.arena.compiled import Compiled, home, not_yet, remembered

PACKAGES = ("jax==0.9.0", "jaxlib==0.9.0", "libtpu==0.0.34", "flax==0.12.6", "optax==0.2.8")
# Parts of a chip's memory that the pass is told it may use.
BUDGETS = (0.5, 0.75)
_INSIDE = Path(__file__).with_name("inside_xla.py")


class PeerError(Exception):
    """The peer cannot be had here; the others go on without it."""


@dataclass(frozen=True)
class Attempt:
    """One mesh and one budget.

    Attributes:
        mesh: sizes.
        order: per mesh position the chip, row-major over the topology.
        budget_gb: memory.
    """

    mesh: tuple[int, ...]
    order: tuple[int, ...]
    budget_gb: int

    @property
    def name(self) -> str:
        return f"XLA AUTO {self.budget_gb} GB"

    @property
    def sizes(self) -> str:
        return " x ".join(map(str, self.mesh))


def attempts(machine: Machine, budgets: tuple[float, ...] = BUDGETS) -> Iterator[Attempt]:
    """Meshes of n x 1 and n/4 x 4, each laid on the links as our own plans would be."""
    n = machine.n_devices
    for sizes in ((n, 1), (n // 4, 4)):
        laid = mesh_from_sizes(machine, dict(zip("ab", sizes, strict=True)))
        for part in budgets:
            yield Attempt(sizes, laid.device_order, int(machine.memory_bytes * part / 1e9))


def contend(
    case: Case,
    attempt: Attempt,
    timeout_s: float,
    tell: Callable[[str], None],
    compiles: bool = True,
) -> Compiled:
    """Have the pass shard a case.

    Args:
        case: what.
        attempt: on which mesh, within which budget.
        timeout_s: wall clock it may take; beyond it, that is its answer.
        tell: is told what is being done.
        compiles: False where only what was compiled before is asked for.

    Raises:
        PeerError: the environment cannot be made.
    """
    asked = {
        "model": case.model,
        "changes": dict(case.changes),
        "batch_size": case.batch_size,
        "on": case.on,
        "mesh": attempt.mesh,
        "order": attempt.order,
        "budget_gb": attempt.budget_gb,
    }
    key = ("xla", repr(case.entry().config), PACKAGES, tuple(sorted(asked.items(), key=str)))

    def compiling() -> Compiled:
        python = environment(tell)
        tell("compiling in its environment")
        with TemporaryDirectory() as place:
            return _run(python, asked, Path(place), timeout_s)

    return remembered(key, compiling if compiles else not_yet)


def _run(python: Path, asked: dict[str, object], place: Path, timeout_s: float) -> Compiled:
    # Nothing of autoshard but its models: a package of that name that holds nothing else.
    package = place / "autoshard"
    package.mkdir()
    (package / "__init__.py").touch()
    models = import_module("autoshard.models").__file__
    (package / "models").symlink_to(Path(str(models)).parent.resolve())
    answer = place / "answer.json"
    command = [str(python), str(_INSIDE), json.dumps({**asked, "file": str(answer)})]
    try:
        ended = subprocess.run(
            command,
            env=_surroundings(place),
            cwd=place,
            timeout=timeout_s,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Compiled(error=f"no answer in {timeout_s:.0f} s")
    if not answer.is_file():
        last = ended.stderr.decode(errors="replace").strip().splitlines()
        told = last[-1][:200] if last else ""
        return Compiled(error=f"ended with status {ended.returncode}: {told}")
    return msgspec.json.decode(answer.read_bytes(), type=Compiled)


def _surroundings(place: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k in ("HOME", "PATH", "TMPDIR", "LANG")}
    return kept | {
        "PYTHONPATH": str(place),
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def environment(tell: Callable[[str], None]) -> Path:
    """The Python of the side environment, which is made if it is not there yet.

    Raises:
        PeerError: it cannot be made; says what pip said.
    """
    place = home() / "peers" / "-".join(PACKAGES[0].split("=="))
    python, ready = place / "bin" / "python", place / ".ready"
    if ready.is_file() and ready.read_text() == " ".join(PACKAGES):
        return python
    tell(f"making its environment in {place}")
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    commands = (
        [sys.executable, "-m", "venv", str(place)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES],
    )
    for command in commands:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            last = ended.stderr.strip().splitlines()
            raise PeerError(f"{' '.join(command)}: {last[-1] if last else ended.returncode}")
    ready.write_text(" ".join(PACKAGES))
    return python
