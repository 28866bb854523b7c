"""Structured pruning, and weight-constrained training."""
