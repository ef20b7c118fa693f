"""Programs for contributors; the wheel does not contain them."""
