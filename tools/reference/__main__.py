"""Write the pages of docs/reference: `python -m tools.reference`, or `make reference`."""

from tools.reference import pages

for path, text in pages().items():
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
