"""The benchmarks themselves: their arithmetic, and that each part runs."""
