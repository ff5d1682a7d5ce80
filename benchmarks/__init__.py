"""Benchmarks: the commands that print the numbers in README and docs."""
