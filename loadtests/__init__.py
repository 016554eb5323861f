"""Load and benchmarks: `make bench`."""
