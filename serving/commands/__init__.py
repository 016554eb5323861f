"""What can be typed behind `gaugeway`, a file for what belongs together; `serving.cli` joins them."""
