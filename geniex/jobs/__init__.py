"""Jobs in processes or on a Ray cluster, and their stored results."""
