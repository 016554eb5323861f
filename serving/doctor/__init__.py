"""`gaugeway doctor`: what is wrong with this machine, this configuration, this gateway, and what to do about it.

Each file has one part: `gather` reads facts, `check` is a pure function from facts to findings.
"""
