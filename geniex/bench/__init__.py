"""Benchmarks of geniex and its rivals in one run, with the project's bars beside the figures."""
