"""Publishing from frameworks. Each module loads its framework, so only those who use it import it."""
