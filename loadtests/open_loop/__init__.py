"""Open-loop load: arrivals fixed in advance, latency from the scheduled arrival, every answer verified."""
