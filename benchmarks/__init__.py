"""How fast ucl is, as ratios measured in one run: ``python -m benchmarks`` from a checkout; README.md here says how to read them."""
