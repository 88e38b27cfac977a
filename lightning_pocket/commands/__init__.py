"""One file per command; the first line of a file is its help."""
