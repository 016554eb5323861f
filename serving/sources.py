"""Tables on disk, read batch by batch: Parquet (a file or a folder of them), Arrow IPC (Feather, stream), CSV.

What a file is says its first bytes. Every function here may raise OSError, pyarrow.ArrowException or
UnicodeDecodeError where a file is not what it says; `serving.rows` makes sentences of them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from serving.errors import PublishRefused

BATCH_ROWS = 2**16
READ_BYTES = 2**20  # of a column at once, instead of all that a row group has of it
CSV_BLOCK_BYTES = 2**24  # of a file that are parsed at once; the types of columns are guessed from the first
SUFFIXES = (".parquet", ".parq")

# The order in which Arrow tries to read a column of a CSV file.
_LADDER = (
    pa.null(), pa.int64(), pa.bool_(), pa.date32(), pa.time32("s"), pa.timestamp("s"), pa.timestamp("s", "UTC"),
    pa.timestamp("ns"), pa.timestamp("ns", "UTC"), pa.float64(), pa.string(), pa.binary(),
)  # fmt: skip


class Source(Protocol):
    """`columns` are the names that are there, as often as they are; fields of a struct too, as ``struct.field``."""

    columns: list[str]

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The columns `names`, all of one schema, in the order of the rows. May be called again.

        A row without the struct that a field of `names` lies in is left out.
        """


def open_source(path: Path) -> Source:
    """The table at `path`. Raises PublishRefused where there is none."""
    if path.is_dir():
        return Parquet(inside(path))
    with path.open("rb") as file:
        magic = file.read(6)
    if magic[:4] == b"PAR1":
        return Parquet([path])
    if magic == b"ARROW1" or magic[:4] == b"\xff\xff\xff\xff":
        return Ipc(path, stream=magic != b"ARROW1")
    if magic[:4] == b"FEA1":
        raise PublishRefused(f"{path} is Feather version 1, expected version 2: write it again with a newer library")
    return Csv(path)


class Parquet:
    """One file or several, one after the other. Types may differ where one of them holds the other: 1 and 1.5."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self.columns = _columns(self._schema(paths[0]))

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        schema = self._common(names)
        for path in self._paths:
            # Not fetched ahead, which would keep all row groups in memory until the end.
            with parquet.ParquetFile(path, pre_buffer=False, buffer_size=READ_BYTES) as file:
                for batch in file.iter_batches(BATCH_ROWS, columns=list(names)):
                    yield plain(_flat(batch, names)).cast(schema)

    def _common(self, names: Sequence[str]) -> Any:
        """The schema that holds all files'. Raises PublishRefused with the file that does not fit."""
        common: Any = None
        for path in self._paths:
            there = self._schema(path)
            for name in names:
                if _columns(there).count(name) != 1:
                    raise PublishRefused(f"{path} has no column {name!r}, {self._paths[0]} has")
            schema = pa.schema([(name, _value(_type(there, name))) for name in names])
            try:
                common = schema if common is None else pa.unify_schemas([common, schema], promote_options="permissive")
            except pa.ArrowException as error:
                raise PublishRefused(f"{path} does not fit to {self._paths[0]}: {error}") from None
        return common

    @staticmethod
    def _schema(path: Path) -> Any:
        with parquet.ParquetFile(path) as file:
            return file.schema_arrow


class Ipc:
    """Arrow's own format: a file (Feather version 2), or a stream."""

    def __init__(self, path: Path, stream: bool) -> None:
        self._path, self._stream = path, stream
        with pa.memory_map(str(path)) as file:
            schema = self._open(file).schema
        self._names, self.columns = schema.names, _columns(schema)

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        fields = {name if name in self._names else name.partition(".")[0] for name in names}
        wanted = pa.ipc.IpcReadOptions(included_fields=sorted(map(self._names.index, fields)))
        with pa.memory_map(str(self._path)) as file:
            reader = self._open(file, wanted)
            whole = reader if self._stream else map(reader.get_batch, range(reader.num_record_batches))
            for batch in whole:
                for first in range(0, batch.num_rows, BATCH_ROWS):
                    yield plain(_flat(batch.slice(first, BATCH_ROWS), names))

    def _open(self, file: Any, options: Any = None) -> Any:
        return pa.ipc.open_stream(file, options=options) if self._stream else pa.ipc.open_file(file, options=options)


class Csv:
    """Comma-separated text with a line of names. A column's type is the first of Arrow's that reads all of it."""

    def __init__(self, path: Path, block_bytes: int = CSV_BLOCK_BYTES) -> None:
        self._path, self._block = path, csv.ReadOptions(block_size=block_bytes)
        self._types: dict[str, Any] = {}
        with self._open(None) as reader:
            self._guessed = reader.schema
        self.columns = self._guessed.names

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        types = self._settled(names)
        with self._open({name: types[name] for name in names}) as reader:
            yield from reader

    def _settled(self, names: Sequence[str]) -> dict[str, Any]:
        """Types guessed from the first block that hold to the end; the file is read once more to see it."""
        if new := {name: self._guessed.field(name).type for name in names if name not in self._types}:
            if not self._reads(new):
                new = {name: self._first(name, guessed) for name, guessed in new.items()}
            self._types |= new
        return self._types

    def _first(self, name: str, guessed: Any) -> Any:
        steps = _LADDER[_LADDER.index(guessed) :]
        return next(step for step in steps if step == pa.binary() or self._reads({name: step}))

    def _reads(self, types: dict[str, Any]) -> bool:
        try:
            with self._open(types) as reader:
                for _ in reader:
                    pass
        except pa.ArrowInvalid as error:
            if "conversion error" not in str(error) and "invalid UTF8" not in str(error):
                raise
            return False
        return True

    def _open(self, types: dict[str, Any] | None) -> Any:
        wanted = csv.ConvertOptions(column_types=types, include_columns=list(types)) if types else None
        return csv.open_csv(self._path, read_options=self._block, convert_options=wanted)


def plain(batch: Any) -> Any:
    """Without dictionaries: each word where it stands."""
    fields = [(field.name, _value(field.type)) for field in batch.schema]
    return batch.cast(pa.schema(fields)) if any(map(pa.types.is_dictionary, batch.schema.types)) else batch


def _flat(batch: Any, names: Sequence[str]) -> Any:
    """The columns `names`, out of their structs."""
    there = set(batch.schema.names)
    for struct in {name.partition(".")[0] for name in names if name not in there}:
        batch = batch.filter(batch[struct].is_valid())
    columns = [batch[name] if name in there else pc.struct_field(batch[name.partition(".")[0]], name.partition(".")[2])
               for name in names]  # fmt: skip
    return pa.RecordBatch.from_arrays(columns, list(names))


def _columns(schema: Any) -> list[str]:
    structs = [field for field in schema if pa.types.is_struct(field.type)]
    return [*schema.names, *(f"{field.name}.{inner.name}" for field in structs for inner in field.type)]


def _type(schema: Any, name: str) -> Any:
    if name in schema.names:
        return schema.field(name).type
    struct, _, inner = name.partition(".")
    return schema.field(struct).type.field(inner).type


def _value(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def inside(folder: Path) -> list[Path]:
    """The Parquet files of a folder and the folders in it, in the order of their names; hidden ones aside."""
    found = sorted(
        path for path in folder.rglob("*")
        if path.suffix in SUFFIXES and not any(part[0] in "._" for part in path.relative_to(folder).parts)
    )  # fmt: skip
    if not found:
        raise PublishRefused(f"the folder {folder} has no Parquet file: none ends in {' or '.join(SUFFIXES)}")
    return found
