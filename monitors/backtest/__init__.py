"""What would have alarmed, when and why: the monitor over rows of the past."""
