"""What an alarm of drift means: when a feature changed, which way, by how much, and what is probably broken."""
