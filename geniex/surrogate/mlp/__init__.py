"""GENIEx's network: a multilayer perceptron that is trained on a sweep."""
