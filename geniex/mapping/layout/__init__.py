"""Layouts of weight matrices on tiles: grid, grouped, Toeplitz and compacted."""
