"""The benchmark: the ceiling, one task per event (naive), and the product, in one run on the same servers."""
