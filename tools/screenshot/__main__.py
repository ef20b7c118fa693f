"""Take a picture for the documents of a page, a file or an address: `python -m tools.screenshot PAGE [PICTURE]`."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

from tools.screenshot.chromium import chromium

FOLDER = Path(__file__).parents[2] / "docs" / "assets"
# Width and height. Of a report, down to the cost: the rest looks alike, and would double the file.
SIZES = {"report.png": (1200, 1000), "flower.png": (1460, 720), "page.png": (1200, 1080)}


def main(page: str, picture: str = "report.png") -> None:
    """Write the upper part of the page, in light colours."""
    width, height = SIZES[picture]
    with chromium() as tab:
        tab.set_width(width)
        tab.set_scheme("light")
        tab.open(page if "://" in page else Path(page).resolve().as_uri(), idle=True)
        tab.next_frame()
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        image = tab.send("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / picture).write_bytes(base64.b64decode(image["data"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
