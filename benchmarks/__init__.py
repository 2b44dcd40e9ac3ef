"""Benchmarks: ratios against a peer in one run; `make bench` runs them all and writes docs/benchmarks.md."""
