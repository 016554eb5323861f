"""The shape of the code, held by tables: `tests/architecture.py`."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

from tests import architecture as table

ROOT = Path(__file__).parent.parent
PACKAGES = ("serving", "monitors", "dashboards")
LONGEST = 400  # lines of a source file
LONGEST_FUNCTION = 40  # lines from `def` on: it fits on a screen
HIDES_THE_NOUN = re.compile(r"(Manager|Handler|Helper|Wrapper|Utils?|Factory)$")
LAYER = {unit: i for i, row in enumerate(table.LAYERS) for unit in row}


@dataclass(frozen=True)
class Module:
    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def unit(self) -> str:
        return next((folder for folder in table.FOLDERS if within(self.name, folder)), self.name)


@dataclass(frozen=True)
class Import:
    name: str
    line: int
    lazy: bool  # within a function


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@cache
def modules() -> tuple[Module, ...]:
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return tuple(Module(dotted(path.relative_to(ROOT)), path.read_text()) for path in paths)


def dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def known() -> frozenset[str]:
    return frozenset(module.name for module in modules())


@cache
def imports(module: Module) -> tuple[Import, ...]:
    """Every import; of our own packages down to the module that is meant by `from package import name`."""
    return tuple(imported(module))


def imported(module: Module) -> Iterator[Import]:
    in_functions = {
        id(inner)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(node)
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.name}:{node.lineno}: a relative import"
            deeper = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known() else str(node.module) for name in deeper]
        else:
            continue
        yield from (Import(name, node.lineno, id(node) in in_functions) for name in dict.fromkeys(names))


def violations(found: Iterable[Module]) -> list[str]:
    return [said for module in found for said in (*misplaced(module), *misshapen(module))]


def misplaced(module: Module) -> Iterator[str]:
    if module.unit not in LAYER:
        yield f"{module.name} is not in tests/architecture.py: add it to LAYERS"
        return
    for one in imports(module):
        at = f"{module.name}:{one.line} imports {one.name}"
        library = one.name.partition(".")[0]
        if one.lazy and (module.name, one.name) not in table.LAZY:
            yield f"{at} inside a function"
        if library in PACKAGES:
            yield from downward(module, one.name, at)
        elif library not in sys.stdlib_module_names:
            yield from through_a_door(module, library, at)


def downward(module: Module, imported: str, at: str) -> Iterator[str]:
    unit = next((folder for folder in table.FOLDERS if within(imported, folder)), imported)
    if unit != module.unit and LAYER.get(unit, len(LAYER)) >= LAYER[module.unit]:
        yield f"{at}, which is not below it in tests/architecture.py"
    if module.name.startswith("monitors") and within(unit, "serving") and unit not in table.MONITORS_MAY_IMPORT:
        if (module.name, unit) not in table.MONITORS_ALSO_IMPORT:
            yield f"{at}: the monitors may not know it"


def through_a_door(module: Module, library: str, at: str) -> Iterator[str]:
    if library not in table.DOORS:
        yield f"{at}, a library without a door in tests/architecture.py"
        return
    allowed = table.DOORS[library]
    if allowed is not None and module.unit not in allowed:
        yield f"{at}; the doors of {library} are {', '.join(allowed)}"


def misshapen(module: Module) -> Iterator[str]:
    lines = module.text.count("\n")
    if lines > LONGEST:
        yield f"{module.name} has {lines} lines, more than {LONGEST}: split it"
    yield from lengthy(module)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef) and HIDES_THE_NOUN.search(node.name):
            yield f"{module.name}:{node.lineno}: class {node.name} hides its noun"
        if isinstance(node, ast.ExceptHandler) and is_broad(node) and module.name not in table.EDGES:
            yield f"{module.name}:{node.lineno} catches what it cannot name, and is no edge in tests/architecture.py"
        if isinstance(node, ast.BinOp) and is_duration(node):
            yield f"{module.name}:{node.lineno} takes a duration from time.time(), which jumps"


def lengthy(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > LONGEST_FUNCTION:
                yield f"{module.name}:{node.lineno}: {node.name} has {lines} lines, more than {LONGEST_FUNCTION}"


def is_broad(node: ast.ExceptHandler) -> bool:
    kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    names = {kind.id for kind in kinds if isinstance(kind, ast.Name)}
    passes_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
    return (node.type is None or bool(names & {"Exception", "BaseException"})) and not passes_on


def is_duration(node: ast.BinOp) -> bool:
    """A difference to now, but for the age of a file."""
    if not isinstance(node.op, ast.Sub):
        return False
    terms = (ast.unparse(node.left), ast.unparse(node.right))
    return "time.time()" in terms and "st_mtime" not in "".join(terms)


def test_every_file_is_in_its_layer_and_every_library_behind_its_door() -> None:
    assert violations(modules()) == []


def test_no_function_is_longer_than_a_screen() -> None:
    """In the packages they are violations; here are the other folders."""
    paths = sorted(path for folder in ("tests", "loadtests") for path in (ROOT / folder).rglob("*.py"))
    found = (Module(dotted(path.relative_to(ROOT)), path.read_text()) for path in paths)
    assert [said for module in found for said in lengthy(module)] == []


def test_the_tables_name_nothing_that_is_not_there() -> None:
    found = modules()
    used = {(m.name, i.name): i.lazy for m in found for i in imports(m)}
    libraries = {(m.unit, i.name.partition(".")[0]) for m in found for i in imports(m)}
    doors = {(unit, library) for library, units in table.DOORS.items() for unit in units or ()}
    assert set(LAYER) - {module.unit for module in found} == set()
    assert doors - libraries == set()
    assert [pair for pair in table.LAZY if not used.get(pair)] == []
    assert [pair for pair in table.MONITORS_ALSO_IMPORT if pair not in used] == []
    assert set(table.EDGES) - {m.name for m in found if any(map(is_broad, handlers(m)))} == set()


def handlers(module: Module) -> list[ast.ExceptHandler]:
    return [node for node in ast.walk(module.tree) if isinstance(node, ast.ExceptHandler)]


def test_no_file_imports_itself_through_others() -> None:
    graph = {m.name: {i.name for i in imports(m)} & known() - {m.name} for m in modules()}
    while ends := {name for name, needs in graph.items() if not needs & graph.keys()}:
        graph = {name: needs for name, needs in graph.items() if name not in ends}
    assert graph == {}


def test_the_command_line_begins_without_what_takes_time() -> None:
    """It is imported by the commands that need it."""
    ask = "import sys, serving.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy = {"aiohttp", "alembic", "onnx", "onnxruntime", "pandas", "pyarrow", "ray", "scipy", "sqlalchemy"}
    assert heavy & set(done.stdout.split()) == set()


def plant(file: str, text: str) -> list[str]:
    """What is said after `text` was put in front of `file`, and not before."""
    name = dotted(Path(file))
    before = [module for module in modules() if module.name == name]
    planted = Module(name, "\n".join([text, *(module.text for module in before)]))
    return [said for said in violations([planted]) if said not in violations(before)]


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("serving/helpers.py", "", "serving.helpers is not in tests/architecture.py"),
        ("monitors/drift_v2.py", "", "monitors.drift_v2 is not in"),
        ("serving/gateway.py", "import ray", "the doors of ray are"),
        ("serving/gateway.py", "from ray.serve import run", "the doors of ray are"),
        ("serving/batching.py", "import onnxruntime as ort", "the doors of onnxruntime are serving.runtime"),
        ("serving/record.py", "import evidently", "a library without a door"),
        ("serving/errors.py", "from serving.config import Config", "not below it"),
        ("serving/record.py", "from serving import gateway", "serving.record:1 imports serving.gateway"),
        ("serving/routing.py", "import serving.controller", "not below it"),
        ("monitors/sidecar.py", "from serving.gateway import Gateway", "the monitors may not know it"),
        ("serving/record.py", "def f():\n    import json", "imports json inside a function"),
        ("serving/record.py", "async def f():\n    from serving.errors import NotFound", "inside a function"),
        ("serving/record.py", "class RingManager: pass", "class RingManager hides its noun"),
        ("serving/record.py", "try: pass\nexcept Exception: pass", "catches what it cannot name"),
        ("serving/record.py", "try: pass\nexcept: pass", "catches what it cannot name"),
        ("serving/record.py", "try: pass\nexcept (OSError, BaseException): pass", "catches what it cannot name"),
        ("serving/record.py", "import time\nelapsed = time.time() - 5", "takes a duration from time.time()"),
        ("serving/record.py", "\n" * 400, "more than 400: split it"),
        ("serving/record.py", "def f():" + "\n    pass" * 40, "f has 41 lines, more than 40"),
    ],
)
def test_a_planted_violation_is_found(file: str, text: str, said: str) -> None:
    assert any(said in violation for violation in plant(file, text))


@pytest.mark.parametrize("text", ["import json", "import numpy", "try: pass\nexcept BaseException:\n    raise"])
def test_what_is_allowed_is_not_found(text: str) -> None:
    assert plant("serving/frames.py", text) == []


def files() -> list[Path]:
    """What belongs to the project: its folders and the files beside them."""
    folders = ("serving", "monitors", "tests", "docs", "loadtests", "dashboards", "deploy", ".ci")
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    return [path for path in (*inside, *ROOT.iterdir()) if path.is_file() and path.suffix not in (".ubj", ".parquet")]


def mentions(pattern: str) -> list[str]:
    regex = re.compile(pattern.encode())
    return [str(path.relative_to(ROOT)) for path in files() if regex.search(path.read_bytes())]


def test_no_package_registry_is_named() -> None:
    """Which registry is used is the business of the machine. The brackets keep this file from matching itself."""
    hosts = r"py[p]i\.org|pythonhost[e]d\.org|npm[j]s\.org|ghc[r]\.io|qua[y]\.io|docke[r]\.io|index-ur[l]"
    assert mentions(hosts) == []


def test_no_path_of_one_machine_is_named() -> None:
    assert mentions(r"/hom[e]/|/roo[t]/|/wor[k]/") == []
