"""The servers that are measured beside each other; each is a file here, and `apps/` is what runs inside theirs."""
