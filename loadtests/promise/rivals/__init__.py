"""Other detectors on the same streams, each with its defaults, in an environment of its own."""
