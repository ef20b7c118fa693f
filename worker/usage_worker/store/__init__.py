"""PostgreSQL: connections, and the statements of every use case, as named SQL files."""
