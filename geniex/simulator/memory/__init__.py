"""The memory that a pass of a converted model takes."""
