"""Remapping: moving kernels and inputs to the places where the non-idealities of a crossbar hurt least."""
