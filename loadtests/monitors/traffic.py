"""Rows whose monitoring is measured: what they hold, and records of them in a ring, as a gateway worker writes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtests.categories import texts
from monitors import reference
from monitors.reference import Kind, Profile
from serving.config import Monitors
from serving.manifest import Feature, Manifest, Prediction
from serving.packed import Encoder
from serving.protocol import Array, Signature, TensorSpec
from serving.ring import RingWriter

BEGAN = 1_800_000_000.0  # when the first row comes, seconds since 1970 UTC


@dataclass(frozen=True)
class Traffic:
    """Rows of `features` features, all columns of one tensor, and a prediction."""

    features: int
    categories: int = 0  # that each feature has, by Zipf's law; 0: normal numbers, FP32
    labelled: bool = False  # predictions wait for a label

    @property
    def name(self) -> str:
        held = f"texts, each of {self.categories:,} categories" if self.categories else "numbers"
        return f"{self.features} {held}{', rows wait for labels' if self.labelled else ''}"

    @property
    def kind(self) -> Kind:
        return "categorical" if self.categories else "numeric"

    @property
    def datatype(self) -> str:
        return "BYTES" if self.categories else "FP32"

    def rows(self, rows: int, seed: int) -> Array:
        """Shape (rows, features)."""
        if self.categories:
            return texts(self.categories, rows * self.features, seed).reshape(rows, self.features)
        return np.random.default_rng(seed).normal(size=(rows, self.features)).astype(np.float32)

    def profile(self, rows: int) -> Profile:
        """Of so many reference rows; of texts those more in which each category comes twice."""
        x, rng = self.rows(rows, seed=0), np.random.default_rng(0)
        if self.categories:
            every = np.array([f"category {n}".encode() for n in range(self.categories)], object)
            x = np.concatenate([np.repeat(every, 2)[:, None].repeat(self.features, axis=1), x])
        kinds: dict[str, Kind] = {f"f{k}": self.kind for k in range(self.features)}
        p = rng.random(len(x), np.float32)
        labels = (rng.random(len(x)) < p).astype(float)
        values = {f"f{k}": column for k, column in enumerate(x.T)}
        return reference.build(values, kinds, prediction=p, labels=labels, task="classification")

    def manifest(self, profile: Profile) -> Manifest:
        return Manifest(
            model="m",
            version="1",
            files={"model.onnx": "0" * 64, "reference.json": profile.digest},
            signature=Signature(
                (TensorSpec("x", self.datatype, (-1, self.features)),), (TensorSpec("p", "FP32", (-1,)),)
            ),
            rows_independent=True,
            task="classification" if self.labelled else None,
            prediction=Prediction("p"),
            features=tuple(Feature(f"f{k}", "x", k, self.kind) for k in range(self.features)),
        )

    def written(self, ring: Path, manifest: Manifest, rows: int, per_record: int, rate: float) -> Iterator[float]:
        """Write the rows that come between two looks at the ring, at `rate` a second; the time of each look."""
        writer, rng = RingWriter(ring, 2**26), np.random.default_rng(1)
        encoder = Encoder("m", "1", manifest.digest, "primary", [("x", self.datatype)], [("p", "FP32")])
        code, step = encoder.codes["weight"], max(1, round(rate * Monitors().poll_s / per_record)) * per_record
        for first in range(0, rows, step):
            x, p = self.rows(min(step, rows - first), seed=first + 1), rng.random(step, np.float32)
            arrived = BEGAN + (first + np.arange(step)) / rate
            for at in range(0, len(x), per_record):
                part = slice(at, at + per_record)
                requests = [(0, np.nan, one, 1.0, 1e-4, 0, 1, 200, code) for one in arrived[part][: len(x) - at]]
                ids = [f"{rng.integers(2**62):016x}" for _ in requests]
                columns = [[x[part]], [p[: len(x)][part]]]
                writer.append(encoder.encode(requests, ids, len(ids), columns, 1e-5), len(ids))
            yield float(arrived[len(x) - 1])
        writer.close()
