"""Reference rows: a table on disk in, columns in the types the model is fed out, part by part."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serving.errors import PublishRefused
from serving.manifest import Feature
from serving.protocol import DATATYPES, Array, Signature, TensorSpec
from serving.sources import Source, inside, open_source
from serving.splitmix import GOLDEN, mixed

PART_ROWS = 2**20  # as many are in memory at once; up to it a sample is all rows
EXACT = 2.0**53  # whole numbers up to it are told apart by FP64

T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """`part` has the rows `numbers`, counted from 0 and in increasing order, of all `rows`."""

    part: "Part"
    numbers: NDArray[np.int64]
    rows: int


class Rows:
    """The columns `names` of the table at `path`: a Parquet file or a folder of them, Arrow IPC, or CSV.

    What is no column may be a field of a struct, as features are in what `gaugeway capture export` writes. Every
    method raises PublishRefused with the name of the file and of the column.
    """

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        self._path, self._names = path, list(dict.fromkeys(names))
        self._source: Source = self._read(lambda: open_source(path))
        self._found = [self._column(name) for name in self._names]

    @property
    def columns(self) -> list[str]:
        """All that are there, in their order."""
        return self._source.columns

    def sample(self, rows: int = PART_ROWS, among: NDArray[np.int64] | None = None) -> Sample:
        """At most `rows` rows, drawn at random, always the same ones however the file is cut into batches.

        `among` are the numbers of rows that may be drawn, in increasing order; None: all.
        """
        lot = Lot(rows, among)
        for batch in self._batches():
            lot.add(batch)
        if not lot.seen:
            raise PublishRefused(f"{self._path} has no rows")
        return Sample(Part(self._path, self._read(lot.table)), lot.numbers, lot.seen)

    def parts(self, rows: int = PART_ROWS) -> Iterator["Part"]:
        """All rows, `rows` at a time; fewer only in the last part."""
        held: list[Any] = []
        room = rows
        for batch in self._batches():
            while batch.num_rows:
                held.append(batch.slice(0, room))
                room -= held[-1].num_rows
                batch = batch.slice(held[-1].num_rows)
                if not room:
                    yield Part(self._path, pa.Table.from_batches(held))
                    held, room = [], rows
        if held:
            yield Part(self._path, pa.Table.from_batches(held))

    def digest(self) -> str:
        """SHA-256 of the file; of a folder, of its files' names and digests."""
        if not self._path.is_dir():
            return _digest(self._path)
        files = "".join(f"{_digest(file)}  {file.relative_to(self._path)}\n" for file in inside(self._path))
        return sha256(files.encode()).hexdigest()

    def _batches(self) -> Iterator[Any]:
        batches = self._source.batches(self._found)
        while (batch := self._read(lambda: next(batches, None))) is not None:
            yield batch.rename_columns(self._names)

    def _column(self, name: str) -> str:
        there = self._source.columns
        found = [at for at in there if name in (at, at.partition(".")[2])]
        if len(found) != 1:
            how = "several columns" if found else "no column"
            close = get_close_matches(name, there, n=1)
            meant = f"; did you mean {close[0]!r}?" if close and not found else ""
            raise PublishRefused(f"{self._path} has {how} {name!r}; it has {', '.join(map(repr, there[:20]))}{meant}")
        return found[0]

    def _read(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except FileNotFoundError:
            raise PublishRefused(f"there is no file {self._path}") from None
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise PublishRefused(f"cannot read {self._path} as Parquet, Arrow or CSV: {reason}") from None


class Part:
    """Some rows of the table at `path`, in memory."""

    def __init__(self, path: Path, table: Any) -> None:
        self._path, self._table = path, table

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

    def values(self, name: str) -> Array:
        """A feature, shape (n,): text as objects, numbers as FP32 where they are no more precise, else FP64."""
        kind = self._table[name].type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
            return self._texts(name)
        single = pa.types.is_float16(kind) or pa.types.is_float32(kind)
        return self._numbers(name).astype(np.float32 if single else np.float64, copy=False)

    def predictions(self, name: str) -> Array:
        """As `values`, of numbers alone."""
        found = self.values(name)
        return found if found.dtype != object else self._numbers(name)

    def clusters(self, name: str) -> Array:
        """What tells clusters apart, shape (n,): as `values`, but whole numbers keep all their digits."""
        whole = pa.types.is_integer(self._table[name].type)
        found = self._exact(name) if whole else self.values(name)
        if whole and found.dtype.kind == "f" and (np.abs(found) > EXACT).any():
            raise PublishRefused(
                f"{self._path}: column {name!r} names clusters by numbers beyond 2^53, of which some are missing:"
                " write them as text"
            )
        return found

    def labels(self, name: str) -> Array:
        """Shape (n,), FP64; NaN where the label is not known."""
        return self._numbers(name)

    def times(self, name: str, *, all_known: bool = True) -> Array:
        """Shape (n,), FP64: seconds since 1970 UTC, from timestamps, dates, or numbers taken as seconds.

        NaN where there is none, which is refused where they must be `all_known`.
        """
        column = self._table[name]
        if pa.types.is_temporal(column.type):
            column = pc.divide(self._micros(name).cast(pa.float64()), 1e6)
        times = self._numbers(name, column, "times are needed: timestamps, dates, or seconds since 1970")
        if all_known and (missing := int((~np.isfinite(times)).sum())):
            raise PublishRefused(f"{self._path}: column {name!r} holds times, but {missing} are missing")
        return times

    def _micros(self, name: str) -> Any:
        """Whole microseconds since 1970 UTC, of a temporal column."""
        column = self._table[name]
        whole = pc.CastOptions(pa.timestamp("us"), allow_time_truncate=True)
        try:
            return column.cast(options=whole).cast(pa.int64())
        except pa.ArrowException as error:
            raise PublishRefused(
                f"{self._path}: column {name!r} holds {column.type}, times since 1970 are needed: {error}"
            ) from None

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

    def _numbers(self, name: str, column: Any = None, needed: str = "numbers are needed") -> Array:
        column = self._table[name] if column is None else column
        kind = column.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
                or pa.types.is_decimal(kind) or pa.types.is_null(kind)):  # fmt: skip
            raise PublishRefused(f"{self._path}: column {name!r} holds {kind}, {needed}")
        return np.asarray(column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(), np.float64)

    def _texts(self, name: str) -> Array:
        column = self._table[name]
        if pa.types.is_nested(column.type):
            raise PublishRefused(f"{self._path}: column {name!r} holds {column.type}, text is needed")
        words = column.combine_chunks().dictionary_encode()
        words = words.combine_chunks() if isinstance(words, pa.ChunkedArray) else words
        texts = np.empty(len(words.dictionary) + 1, object)
        texts[:] = [_utf8(value) for value in (*words.dictionary.to_pylist(), None)]
        return np.asarray(texts[words.indices.fill_null(len(texts) - 1).to_numpy()], object)


class Lot:
    """The rows whose numbers have the lowest hashes: a uniform sample, whatever comes with which batch."""

    def __init__(self, size: int, among: NDArray[np.int64] | None = None) -> None:
        self._size, self._among, self.seen = size, among, 0
        self._held: list[Any] = []
        self._chosen: list[NDArray[np.int64]] = []
        self._rows = 0
        self._bound = np.uint64(2**64 - 1)  # hashes at it or above are not among the lowest

    def add(self, batch: Any) -> None:
        first, self.seen = self.seen, self.seen + batch.num_rows
        number = np.arange(first, self.seen)
        if self._among is not None:
            number = self._among[slice(*np.searchsorted(self._among, (first, self.seen)))]
        number = number[_hash(number) < self._bound]
        self._held.append(batch if len(number) == batch.num_rows else batch.take(pa.array(number - first)))
        self._chosen.append(number)
        self._rows += len(number)
        if self._rows > 2 * self._size:
            self._cut()

    def table(self) -> Any:
        self._cut()
        return pa.Table.from_batches(self._held)

    @property
    def numbers(self) -> NDArray[np.int64]:
        return np.concatenate(self._chosen)

    def _cut(self) -> None:
        if self._rows <= self._size:
            return
        number = self.numbers
        lowest = np.argpartition(_hash(number), self._size)
        self._bound = _hash(number[lowest[self._size : self._size + 1]])[0]
        kept = np.sort(lowest[: self._size])
        self._held = pa.Table.from_batches(self._held).take(pa.array(kept)).to_batches()
        self._chosen, self._rows = [number[kept]], len(kept)


def _hash(number: NDArray[np.int64]) -> NDArray[np.uint64]:
    return mixed(number.astype(np.uint64) + GOLDEN)


def _utf8(value: Any) -> bytes:
    return b"" if value is None else value if isinstance(value, bytes) else str(value).encode()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
