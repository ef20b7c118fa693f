"""The demonstration: realistic traffic, an oracle, and a run of the whole system between them."""
