"""Pure decisions driven by traffic of the past, or by an imagined day, before they are made for real."""
