"""Benchmarks: geniex beside its rivals in one run, with the project's bars beside the figures."""
