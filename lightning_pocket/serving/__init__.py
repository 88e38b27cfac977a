"""Pages over a folder of results, on this machine alone."""
