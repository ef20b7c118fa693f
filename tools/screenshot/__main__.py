"""Take the picture of a report's page for docs/report.md: `python -m tools.screenshot report.html`."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

from tools.screenshot.chromium import chromium

PICTURE = Path(__file__).parents[2] / "docs" / "assets" / "report.png"
WIDTH = 1200
# Down to the cost: the rest looks alike, and would double the file.
HEIGHT = 1000


def main(page: Path) -> None:
    """Write the upper part of the page, in light colours."""
    with chromium() as tab:
        tab.set_width(WIDTH)
        tab.set_scheme("light")
        tab.open(page.resolve().as_uri())
        tab.next_frame()
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT, "scale": 1}
        picture = tab.send("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_bytes(base64.b64decode(picture["data"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
