"""Deliberate breakages: one wrong line each, and the tests that must notice it.

``python tests/benchmarks/breakages.py`` puts each wrong line into a copy of this tree, runs the named tests there, and
prints which breakages they notice. It takes minutes, so it is run by hand; names of rooms leave out the others.
``tests/test_breakages.py`` checks that every line still stands exactly once in the package.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
COPIED = ("geniex", "tests", "pyproject.toml", "README.md")
LINKED = ("models", "spice_data", "notebooks", "docs", "Makefile", "CHANGELOG.md", "CITATION.cff", "LICENSE")
"""What tests only read."""
FAILED = 1
"""The exit status of pytest if tests ran and some failed."""
LONGEST = 1800
"""Seconds that the tests of one breakage may take."""
HUNG = -1
"""The exit status where they took longer."""


class Breakage(NamedTuple):
    """A line of the package, a wrong one in its place, and the tests of which at least one must then fail."""

    room: str
    line: str
    """The line without its indentation; it stands once in the whole package, so that files may move."""
    wrong: str
    tests: tuple[str, ...]
    """Test files, or single tests as ``file::test`` where the others take long."""


BREAKAGES = (
    Breakage(
        "cells",
        "return self.small_signal(g) * torch.cosh(u / per_tile(self.v0))",
        "return self.small_signal(g) * torch.sinh(u / per_tile(self.v0))",
        ("tests/cells/test_sinh.py", "tests/cells/test_cells.py"),
    ),
    Breakage(
        "cells",
        "at_zero = float(self.small_signal(torch.tensor(g, dtype=torch.float64)))",
        "at_zero = g",
        ("tests/cells/test_cells.py",),
    ),
    Breakage(
        "circuit",
        "return self.row_drop(currents) + self.col_drop(currents)",
        "return self.row_drop(currents) - self.col_drop(currents)",
        ("tests/circuit/test_native.py",),
    ),
    Breakage(
        "circuit",
        "return (ideal - actual) / safe",
        "return (ideal - actual) / actual",
        ("tests/circuit/test_figures.py",),
    ),
    Breakage(
        "circuit/spice",
        'add_resistor(f"sink{j}", nodes.col(rows - 1, j), f"sense{j}", wires.r_sink)',
        'add_resistor(f"sink{j}", nodes.col(rows - 1, j), f"sense{j}", wires.r_source)',
        ("tests/circuit/test_ngspice.py",),
    ),
    Breakage(
        "mapping",
        "return self.g_off + code * self.step(levels)",
        "return self.g_on - code * self.step(levels)",
        ("tests/mapping/test_window.py",),
    ),
    Breakage(
        "mapping",
        "rest = integers + half * sign",
        "rest = integers - half * sign",
        ("tests/simulator/test_arithmetic.py",),
    ),
    Breakage(
        "jobs",
        "if deaths == _DEATHS:",
        "if deaths == 1:",
        ("tests/jobs/test_pool.py::test_a_worker_that_dies_takes_only_its_item_with_it",),
    ),
    Breakage(
        "sweep",
        "return float((offset + index * _STEPS[kind]) % 1.0)",
        "return float((offset + index / 1000 * _STEPS[kind]) % 1.0)",
        ("tests/sweep/test_sweep_sampling.py",),
    ),
    Breakage(
        "sweep",
        "return extents is not None and _digest(file, end, extents) == digest",
        "return extents is not None",
        ("tests/sweep/test_sweep_file.py",),
    ),
    Breakage(
        "surrogate/physics",
        "out = out * square + math.perm(power, derivative) * c",
        "out = out * square + c",
        ("tests/surrogate/test_physics.py",),
    ),
    Breakage(
        "surrogate/mlp",
        "return torch.clamp(self.r_min + self.span * scaled, min=RATIO_FLOOR * self.r_min)",
        "return self.r_min + self.span * scaled",
        ("tests/surrogate/test_mlp.py",),
    ),
    Breakage(
        "emulator",
        "power = linear.read(voltages) * (1 + gain * (fourth / third) * (first / second))",
        "power = linear.read(voltages) * (1 + gain * (third / fourth) * (first / second))",
        ("tests/emulator/test_power.py",),
    ),
    Breakage(
        "variation",
        "return conductances * torch.exp(-math.log(self.seconds / self.t0) * exponent)",
        "return conductances * torch.exp(math.log(self.seconds / self.t0) * exponent)",
        ("tests/variation/test_distributions.py",),
    ),
    Breakage(
        "variation",
        "scale = (variance + self.noise.current**2).sqrt()",
        "scale = variance.sqrt() + self.noise.current",
        ("tests/variation/test_read_noise.py",),
    ),
    Breakage(
        "simulator",
        "return (currents - currents[..., -1:]) * scale",
        "return (currents - currents[..., :1]) * scale",
        ("tests/simulator/test_schemes.py", "tests/simulator/test_arithmetic.py"),
    ),
    Breakage(
        "simulator",
        "signed = held[0] - held[1] if held.shape[0] == 2 else held[0]",
        "signed = held[0] + held[1] if held.shape[0] == 2 else held[0]",
        ("tests/simulator/test_matrix.py", "tests/simulator/test_arithmetic.py"),
    ),
    Breakage(
        "simulator",
        "held = pass_straight_through(torch.fmod(whole, 2.0**bits), scaled)",
        "held = pass_straight_through(torch.remainder(whole, 2.0**bits), scaled)",
        ("tests/simulator/test_arithmetic.py",),
    ),
    Breakage(
        "simulator",
        "if transposed and conv.groups != 1:",
        "if transposed and conv.groups == 0:",
        ("tests/simulator/test_layers_folding.py",),
    ),
    Breakage(
        "simulator",
        "statistics.add(part[torch.cat([drawn, extremes])])",
        "statistics.add(part[drawn])",
        ("tests/simulator/test_convert.py::test_subsampled_calibration_keeps_the_extremes",),
    ),
    Breakage(
        "simulator",
        "target = matrix.target_conductances if matrix.varied else matrix.conductances",
        "target = matrix.conductances",
        ("tests/mitigation/test_drift_compensation.py",),
    ),
    Breakage(
        "mitigation/remap",
        "change = here + here.transpose(1, 2) - own[:, :, None] - own[:, None, :]",
        "change = here - here.transpose(1, 2) - own[:, :, None] - own[:, None, :]",
        ("tests/mitigation/test_assignment.py",),
    ),
    Breakage(
        "mitigation/prune",
        "if known != form:",
        "if known is None:",
        ("tests/mitigation/test_channel_pruning.py",),
    ),
    Breakage(
        "mitigation",
        "matrix.clip_weight()",
        "matrix.weight",
        ("tests/mitigation/test_finetune.py",),
    ),
    Breakage(
        "networks",
        "return self.pixels[indices].float() / self.full_scale, self.labels[indices]",
        "return self.pixels[indices].float() / 255, self.labels[indices]",
        ("tests/networks/test_images.py",),
    ),
    Breakage(
        "study",
        "half = student_quantile(count - 1) * float(values.std()) / math.sqrt(count)",
        "half = student_quantile(count - 1) * float(values.std())",
        ("tests/study/test_monte_carlo.py",),
    ),
    Breakage(
        "study",
        "error, error_low, error_high = measure_logit_error(same, truth)",
        "error, error_low, error_high = measure_logit_error(truth, same)",
        ("tests/study/test_accuracy.py",),
    ),
    Breakage(
        "bench",
        "if not front or at[1] < points[front[-1]][1] or at == points[front[-1]]:",
        "if not front or at[1] > points[front[-1]][1] or at == points[front[-1]]:",
        ("tests/bench/test_surrogate.py",),
    ),
    Breakage(
        "plotting",
        "shown = 100 * cells / torch.where(voltages == 0, torch.nan, voltages)[:, None]",
        "shown = 100 * cells / torch.where(voltages == 0, torch.nan, voltages)[None, :]",
        ("tests/plotting/test_plotting.py",),
    ),
    Breakage(
        "cli",
        "return 130",
        "return 1",
        ("tests/cli/test_main.py",),
    ),
    Breakage(
        "config",
        "if version != target.config_version:",
        "if version < target.config_version:",
        ("tests/test_config.py",),
    ),
    Breakage(
        "files",
        "return isinstance(data, dict) and data.get(_SEAL) == _content_digest(data)",
        "return isinstance(data, dict) and _SEAL in data",
        ("tests/test_damaged_files.py",),
    ),
)


def places(line: str, root: Path = ROOT) -> Iterator[tuple[Path, int]]:
    """The files below ``root`` and the numbers (from 0) of the package's lines that are ``line``."""
    for path in sorted((root / "geniex").rglob("*.py")):
        for number, own in enumerate(path.read_text(encoding="utf-8").splitlines()):
            if own.strip() == line:
                yield path, number


def run(breakage: Breakage, root: Path) -> tuple[int, str]:
    """The exit status and the last line of the breakage's tests in the tree at ``root``, which stays as it was."""
    ((path, number),) = places(breakage.line, root)
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    lines[number] = lines[number].replace(breakage.line, breakage.wrong)
    path.write_text("".join(lines), encoding="utf-8")
    try:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *breakage.tests]
        own = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=root, env=os.environ | own, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return HUNG, f"not done after {LONGEST} s"
    finally:
        path.write_text(text, encoding="utf-8")
    told = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode, (told or done.stdout.splitlines() or [done.stderr])[-1].partition(" - ")[0]


def main() -> int:
    """Run the breakages; returns the number of those that no test noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rooms", nargs="*", help="rooms whose breakages are run; all, where none is named")
    rooms = parser.parse_args().rooms
    chosen = [breakage for breakage in BREAKAGES if not rooms or breakage.room in rooms]
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        for name in COPIED:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, root / name)
        for name in LINKED:
            (root / name).symlink_to(ROOT / name)
        for breakage in chosen:
            began = time.perf_counter()
            status, told = run(breakage, root)
            missed += status != FAILED
            word = "noticed" if status == FAILED else f"MISSED ({status})"
            print(
                f"{breakage.room:18} {word:8} {time.perf_counter() - began:5.0f} s  {breakage.wrong}\n    {told}",
                flush=True,
            )
    print(f"{len(chosen) - missed} of {len(chosen)} breakages noticed")
    return missed


if __name__ == "__main__":
    sys.exit(main())
