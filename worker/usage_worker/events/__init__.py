"""The usage event and its form on the wire: pure, without I/O."""
