"""The reference set that ships: made by ngspice, so it tests the native solver where ngspice is absent too."""

from pathlib import Path

import numpy as np

from geniex.sweep import SweepFile, draw_tile, load_sweep_config

DATA = Path(__file__).parents[2] / "spice_data"


def test_native_solver_agrees_with_the_ngspice_reference() -> None:
    sweep = SweepFile(DATA / "reference-16.h5")
    assert sweep.attributes["solver"] == "ngspice"
    conductances, voltages, expected = sweep.read(0, sweep.tiles)
    currents = sweep.crossbar.solve(voltages, conductances[:, None], method="native")
    scale = expected.abs().maximum(1e-3 * expected.abs().amax(-1, keepdim=True))
    assert ((currents - expected).abs() / scale).max() <= 1e-8


def test_reference_is_what_its_configuration_draws() -> None:
    # Fails when sampling changes for a given seed, by us or by NumPy: then shipped digests are void.
    sweep = SweepFile(DATA / "reference-16.h5")
    assert sweep.config == load_sweep_config(DATA / "reference-16.yaml")
    conductances, voltages, _ = (x.numpy() for x in sweep.read(0, sweep.tiles))
    for tile in range(sweep.tiles):
        codes, levels = draw_tile(sweep.config, tile)
        np.testing.assert_allclose(voltages[tile], levels * 0.25 / 15, rtol=1e-13)
        np.testing.assert_allclose(conductances[tile], (1 + codes * 5 / 15) / 600e3, rtol=1e-12)
