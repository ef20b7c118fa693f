"""Write docs/schema.md from a database on an embedded server: `python -m tools.schema`, or `make schema`."""

from tools.schema import PAGE, page
from usage_worker.local import EmbeddedPostgres
from usage_worker.local.account import temporary_folder
from usage_worker.migrate import Runner

with temporary_folder() as folder, EmbeddedPostgres(folder / "postgres") as server:
    Runner(server.url()).up()
    PAGE.write_text(page(server.url()), encoding="utf-8")
