"""Reference rows: a Parquet or CSV file in, columns in the types the model is fed out."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from serving.errors import PublishRefused
from serving.manifest import Feature
from serving.protocol import DATATYPES, Array, Signature, TensorSpec


class Rows:
    """The columns `names` of the file at `path`, which is Parquet by its first bytes, else CSV.

    Every method raises PublishRefused with the name of the file and of the column.
    """

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        self._path = path
        self._table = self._read(list(dict.fromkeys(names)))
        if not len(self):
            raise PublishRefused(f"{path} has no rows")

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def tensors(self, signature: Signature, features: Sequence[Feature]) -> dict[str, Array]:
        """Inputs of the model, each with all rows along axis 0; missing numbers are NaN, missing text is empty."""
        tensors = {}
        for spec in signature.inputs:
            columns = [self._cast(feature.name, spec) for feature in features if feature.input == spec.name]
            if not columns:
                raise PublishRefused(
                    f"{self._path} gives no values for input {spec.name!r}: name all inputs in --features"
                )
            tensors[spec.name] = columns[0] if len(spec.shape) == 1 else np.stack(columns, 1)
        return tensors

    def labels(self, name: str) -> Array:
        """Shape (n,), FP64; NaN where the label is not known."""
        return self._numbers(name)

    def times(self, name: str) -> Array:
        """Shape (n,), FP64: seconds since 1970 UTC, from timestamps, dates, or numbers taken as seconds."""
        column = self._table[name]
        if pa.types.is_temporal(column.type):
            column = pc.divide(column.cast(pa.timestamp("us")).cast(pa.int64()).cast(pa.float64()), 1e6)
        times = self._numbers(name, column)
        if missing := int((~np.isfinite(times)).sum()):
            raise PublishRefused(f"{self._path}: column {name!r} holds times, but {missing} are missing")
        return times

    def _read(self, names: list[str]) -> Any:
        try:
            with self._path.open("rb") as file:
                is_parquet = file.read(4) == b"PAR1"
            there, table = _parquet(self._path, names) if is_parquet else _csv(self._path)
        except FileNotFoundError:
            raise PublishRefused(f"there is no file {self._path}") from None
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise PublishRefused(f"cannot read {self._path} as Parquet or CSV: {reason}") from None
        for name in names:
            if there.count(name) != 1:
                how = "several columns" if name in there else "no column"
                raise PublishRefused(f"{self._path} has {how} {name!r}; it has {', '.join(map(repr, there[:20]))}")
        return table.select(names)

    def _cast(self, name: str, spec: TensorSpec) -> Array:
        """A column in the datatype of the input it feeds, shape (n,)."""
        if spec.datatype == "BYTES":
            return self._texts(name)
        numbers, dtype = self._exact(name), DATATYPES[spec.datatype]
        with np.errstate(over="ignore", invalid="ignore"):  # too large for FP32 is infinite, there as when serving
            cast: Array = numbers.astype(dtype)
        if dtype.kind != "f" and not np.array_equal(cast, numbers):
            raise PublishRefused(
                f"{self._path}: column {name!r} holds values that input {spec.name!r} ({spec.datatype}) cannot,"
                " such as missing ones or fractions"
            )
        return cast

    def _exact(self, name: str) -> Array:
        """Whole numbers without gaps stay whole, all else is FP64."""
        column = self._table[name]
        whole = pa.types.is_integer(column.type) and not column.null_count
        return np.asarray(column.to_numpy()) if whole else self._numbers(name)

    def _numbers(self, name: str, column: Any = None) -> Array:
        column = self._table[name] if column is None else column
        kind = column.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
                or pa.types.is_decimal(kind) or pa.types.is_null(kind)):  # fmt: skip
            raise PublishRefused(f"{self._path}: column {name!r} holds {kind}, numbers are needed")
        return np.asarray(column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(), np.float64)

    def _texts(self, name: str) -> Array:
        column = self._table[name]
        if pa.types.is_nested(column.type):
            raise PublishRefused(f"{self._path}: column {name!r} holds {column.type}, text is needed")
        texts = np.empty(len(column), object)
        texts[:] = [b"" if v is None else v if isinstance(v, bytes) else str(v).encode() for v in column.to_pylist()]
        return texts


def _parquet(path: Path, names: list[str]) -> tuple[list[str], Any]:
    with parquet.ParquetFile(path) as file:
        return file.schema_arrow.names, file.read(columns=names)


def _csv(path: Path) -> tuple[list[str], Any]:
    table = csv.read_csv(path)
    return table.column_names, table
