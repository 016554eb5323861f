"""Results on disk, each under a digest of all it depends on: a run that was stopped goes on where it was."""

import ast
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).parents[2]
LIBRARIES = ("numpy", "scipy")


class Made(msgspec.Struct, frozen=True):
    """A result, and in how many seconds it was made."""

    seconds: float
    result: Any


class _Kept(msgspec.Struct):
    seconds: float
    result: msgspec.Raw


def digest(what: str, files: Iterable[Path]) -> str:
    """Of what is done, of the source files that it begins with and all that they import, and of the libraries."""
    found = sha256(f"{what} {sys.version_info[:2]} {[version(name) for name in LIBRARIES]}".encode())
    for file in sources(files):
        found.update(f"\n{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    return found.hexdigest()


def sources(files: Iterable[Path]) -> list[Path]:
    """These files and the project's that they import, those that these import, and so on.

    >>> [file.name for file in sources([ROOT / "loadtests" / "promise" / "interval.py"])]
    ['__init__.py', '__init__.py', 'interval.py', 'streams.py']
    """
    known, new = set[Path](), set(files)
    while new:
        known |= new
        new = {found for file in new if file.suffix == ".py" for found in _imported(file)} - known
    return sorted(known)


def read(path: Path, kind: Any) -> Made | None:
    """What `write` wrote, a result of this type; None where there is none, or it has another form."""
    try:
        kept = msgspec.msgpack.decode(path.read_bytes(), type=_Kept)
        return Made(kept.seconds, msgspec.msgpack.decode(kept.result, type=kind))
    except (OSError, msgspec.DecodeError):
        return None


def write(path: Path, made: Made) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.msgpack.encode(made))
    new.replace(path)


@cache
def _imported(file: Path) -> frozenset[Path]:
    names = list[str]()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return frozenset(found for name in names for found in _files(name.split(".")))


def _files(parts: list[str]) -> Iterator[Path]:
    """Of a module and of the packages that it lies in; none of somebody else's."""
    for depth in range(1, len(parts) + 1):
        at = ROOT.joinpath(*parts[:depth])
        yield from (file for file in (at / "__init__.py", at.with_suffix(".py")) if file.exists())
