"""The batched solver of the circuit: a fixed point with Anderson mixing, Newton's method, and their ladders."""
