"""Benchmarks of geniex on this machine: time, memory and roofline; a checkout adds rivals and limits to them."""
