"""The capture log: requests and predictions on the node's own disk, for audit, replay, references and training.

    ring -> tap -> log -> segment      rows in Arrow, each batch with the place in the ring behind it
                    |
                  shelf                a version's segments: what is sealed, with its digest
    retention, erasure, export         over the shelves

Only `capturing` and `figures` are loaded where nothing is captured: the others need arrow.
"""
