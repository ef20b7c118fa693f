"""The benchmark: the ceiling, the usual way and the product, side by side in one run on the same servers."""
