"""Surrogates that expand the circuit's equations, without training."""
