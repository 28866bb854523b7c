"""Studies: evaluation of surrogates, accuracy prediction, mitigation, design-space exploration and benchmarks."""
