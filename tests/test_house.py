"""The rules of the house, as far as a program can check them; the rest is in CONTRIBUTING.md."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TypeVar

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "bus": ROOT / "bus" / "manor_bus",
    "cli": ROOT / "cli" / "manor_cli",
    "host": ROOT / "host" / "manor_host",
    **{folder.parent.name: folder for folder in sorted(ROOT.glob("services/*/manor_*"))},
}
SERVICES = sorted(set(ROOMS) - {"bus", "cli", "host"})
WORKSPACE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONTRACTS = {contract["name"]: contract for contract in WORKSPACE["tool"]["importlinter"]["contracts"]}
PURE = "decisions reach no clock, no chance and no I/O"

FUNCTION_LINES_MAX = 50
MODULE_LINES_MAX = 400
MAIN_LINES_MAX = 60
CODE_LINES_MAX = 27_120

BANNED = re.compile(r"controller|manager|handlers?|utils?|helpers?|common|base|info|data|misc")
# Names that stand on the wire: `srv.info` is a question every service answers.
ON_THE_WIRE = frozenset({"Info", "InfoAnswer", "_info"})

# What a class may be built on: seams, values, errors, and no behaviour.
BASES = frozenset({"Protocol", "Generic", "NamedTuple", "TypedDict", "Struct", "Message", "Exception"})
BASE_ENDINGS = ("Enum", "Flag", "Error", "Protocol")


Node = TypeVar("Node", bound=ast.AST)


def sources() -> list[Path]:
    """All modules of the product; tests, benchmarks and examples have rules of their own."""
    return sorted(file for room in ROOMS.values() for file in room.rglob("*.py"))


def relative(file: Path) -> str:
    return str(file.relative_to(ROOT))


def every(kind: type[Node], tree: ast.AST) -> Iterator[Node]:
    return (node for node in ast.walk(tree) if isinstance(node, kind))


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [*every(ast.FunctionDef, tree), *every(ast.AsyncFunctionDef, tree)]


@pytest.fixture(params=sources(), ids=relative)
def source(request):
    return request.param


@pytest.fixture
def tree(source):
    return ast.parse(source.read_text(encoding="utf-8"))


def module_name(file: Path) -> str:
    """`services/lifecycle/manor_lifecycle/machine.py` -> `manor_lifecycle.machine`."""
    room = next(folder for folder in ROOMS.values() if file.is_relative_to(folder))
    return ".".join(file.relative_to(room.parent).with_suffix("").parts).removesuffix(".__init__")


# ---- Size --------------------------------------------------------------------------------------------------


def test_no_module_is_longer_than_a_reader_can_hold(source):
    assert len(source.read_text(encoding="utf-8").splitlines()) <= MODULE_LINES_MAX


def test_no_function_is_longer_than_a_screen(tree):
    lines = {one.name: (one.end_lineno or 0) - one.lineno + 1 for one in functions(tree)}
    assert {name: count for name, count in lines.items() if count > FUNCTION_LINES_MAX} == {}


def test_the_whole_product_stays_small_enough_to_read():
    files = [
        *sources(),
        *ROOT.glob("deploy/**/*.py"),
        *ROOT.glob("docs/**/*.py"),
        *ROOT.glob("examples/*.py"),
    ]
    assert sum(map(lines_of_code, files)) < CODE_LINES_MAX


def lines_of_code(file: Path) -> int:
    """Count what a program does: no empty lines, comments and docstrings."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    with file.open("rb") as lines:
        tokens = [one for one in tokenize.tokenize(lines.readline) if one.type not in silent]
    code = {number for one in tokens[1:-1] for number in range(one.start[0], one.end[0] + 1)}
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            code -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(code)


# ---- Names -------------------------------------------------------------------------------------------------


def words(name: str) -> set[str]:
    """`open_console`, `OpenConsole` -> {open, console}."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def test_a_name_is_taken_apart_into_its_words():
    assert words("_read_HTTPInfo2") == {"read", "http", "info"}


def test_files_classes_and_functions_are_named_by_what_they_do(source, tree):
    names = {one.name for one in every(ast.ClassDef, tree)} | {one.name for one in functions(tree)}
    parts = source.relative_to(ROOT).with_suffix("").parts
    assert {name for name in names | set(parts) if any(map(BANNED.fullmatch, words(name)))} <= ON_THE_WIRE


# ---- Shape -------------------------------------------------------------------------------------------------


def test_nothing_inherits_behaviour(tree):
    bases = [(one.name, ast.unparse(base)) for one in every(ast.ClassDef, tree) for base in one.bases]
    last_names = [(name, base.partition("[")[0].rpartition(".")[2]) for name, base in bases]
    assert [
        (name, base) for name, base in last_names if base not in BASES and not base.endswith(BASE_ENDINGS)
    ] == []


def test_every_folder_of_tests_is_a_package():
    folders = {file.parent for file in ROOT.glob("tests/**/test_*.py") if "node_modules" not in file.parts}
    assert [relative(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_the_same_shape(service):
    room = ROOMS[service]
    assert {"__main__.py", "settings.py", "service.py"} <= {file.name for file in room.iterdir()}
    assert len((room / "__main__.py").read_text(encoding="utf-8").splitlines()) <= MAIN_LINES_MAX
    service_tree = ast.parse((room / "service.py").read_text(encoding="utf-8"))
    assert "open_room" in {one.name for one in every(ast.AsyncFunctionDef, service_tree)}
    settings_tree = ast.parse((room / "settings.py").read_text(encoding="utf-8"))
    assert "Settings" in {one.name for one in every(ast.ClassDef, settings_tree)}


# ---- Imports -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", ROOMS)
def test_the_manifest_of_a_room_depends_on_no_room_but_the_bus_and_the_host(room):
    manifest = tomllib.loads((ROOMS[room].parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    rooms = {name for name in manifest["dependencies"] if name.startswith("manor-")}
    must, may = {"host": ("", ""), "bus": ("", "manor-host")}.get(room, ("manor-bus", "manor-bus manor-host"))
    assert set(must.split()) <= rooms <= set(may.split())
    assert manifest["version"] == WORKSPACE["project"]["version"]


def test_what_calls_itself_pure_is_held_to_it():
    claimed = {
        module_name(file)
        for file in sources()
        if re.search(r"(?i)\bpure[.:]", ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "")
    }
    assert claimed - set(CONTRACTS[PURE]["source_modules"]) == set(), "name them in pyproject.toml"


@pytest.fixture
def copied_rooms(tmp_path):
    """A copy of all rooms, so that a rule can be broken on purpose."""
    for folder in ROOMS.values():
        shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def violations() -> Iterator[tuple[str, str, str]]:
    """For each contract: its name, a module, and a line that must not stand there."""
    for name, contract in CONTRACTS.items():
        if "containers" in contract:
            yield name, "manor_bus/wire/subjects.py", "import manor_bus.broker.switch"
            yield name, "manor_bus/peer/state.py", "import manor_bus.broker.switch"
        elif contract["type"] == "layers":
            yield name, "manor_lifecycle/extra.py", "import manor_config"
            yield name, "manor_bus/extra.py", "import manor_cli"
            yield name, "manor_host/extra.py", "import manor_bus"
        else:
            module = contract["source_modules"][-1].replace(".", "/") + ".py"
            yield name, module, f"import {contract['forbidden_modules'][-1]}"


def test_the_rooms_as_they_are_keep_all_import_contracts(copied_rooms):
    outcome = lint_imports(copied_rooms)
    assert outcome.returncode == 0, outcome.stdout


@pytest.mark.parametrize(("contract", "module", "line"), list(violations()))
def test_a_broken_import_contract_is_seen(copied_rooms, contract, module, line):
    with (copied_rooms / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    outcome = lint_imports(copied_rooms)
    assert outcome.returncode != 0
    assert f"{contract} BROKEN" in outcome.stdout


def test_a_decision_that_reaches_the_clock_through_another_module_is_seen(copied_rooms):
    (copied_rooms / "manor_bus" / "extra.py").write_text("import time\n", encoding="utf-8")
    with (copied_rooms / "manor_bus" / "wire" / "subjects.py").open("a", encoding="utf-8") as file:
        file.write("\nimport manor_bus.extra\n")
    outcome = lint_imports(copied_rooms)
    assert f"{PURE} BROKEN" in outcome.stdout


@pytest.mark.parametrize(
    "line",
    ["import zmq", "from msgspec import msgpack", "import os\nx = os.environ", "import bus.manor_bus"],
)
def test_what_has_one_home_is_refused_elsewhere(line):
    outcome = subprocess.run(
        [Path(sys.executable).with_name("ruff"), "check", "--stdin-filename", "cli/manor_cli/extra.py", "-"],
        input=f'"""Extra."""\n\n{line}\n',
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "TID251" in outcome.stdout


# ---- Words -------------------------------------------------------------------------------------------------


def texts() -> list[Path]:
    """Every text file that is, or is about to be, in the repository; locks are made by tools."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [ROOT / line for line in listing.stdout.splitlines()]
    return [file for file in files if file.is_file() and file.name not in ("package-lock.json", "LICENSE")]


def hits(pattern: str, files: list[Path]) -> list[str]:
    expression = re.compile(pattern)
    return [
        f"{relative(file)}:{number}: {line.strip()}"
        for file in files
        if file != Path(__file__)
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if expression.search(line)
    ]


def test_nothing_is_left_for_later_in_a_comment():
    assert hits(r"\b(TODO|FIXME|XXX|HACK)\b|\b[Ff]or now\b|\bsimplified\b|\bplaceholder\b", texts()) == []


def test_no_file_names_a_package_registry():
    assert hits(r"pypi\.org|pythonhosted|npmjs|/simple\b|--index-url|deb\.debian\.org", texts()) == []


def test_no_file_knows_a_path_of_one_machine():
    assert hits(r"(?<![\w.])/(work|root|home/\w+)/", texts()) == []


def test_pinned_requirements_have_hashes_and_no_addresses():
    for name in ("run.txt", "dev.txt"):
        lines = (ROOT / "requirements" / name).read_text(encoding="ascii").splitlines()
        pins = [line for line in lines if not line.startswith(" ")]
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+ \\", pin) for pin in pins)
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", x) for x in lines if x not in pins)


def test_what_the_rooms_depend_on_is_what_is_pinned():
    wanted = {
        re.split(r"[>=<\[]", need)[0].lower()
        for folder in ROOMS.values()
        for need in tomllib.loads((folder.parent / "pyproject.toml").read_text())["project"]["dependencies"]
        if not need.startswith("manor-")
    }
    asked = (ROOT / "requirements" / "run.in").read_text(encoding="ascii").lower().splitlines()
    assert wanted | {"hatchling", "editables"} == {line for line in asked if line and line[0] != "#"}


# ---- Packages ----------------------------------------------------------------------------------------------


def imported(file: Path) -> Iterator[str]:
    """Names of the packages a module imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def declared(room: Path) -> set[str]:
    """Import names of what a room's distribution says it needs."""
    project = tomllib.loads((room.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {re.split(r"[<>=!~;\[ ]", one)[0].lower().replace("_", "-") for one in project["dependencies"]}
    return {
        package
        for package, names in packages_distributions().items()
        if not package.startswith("_") and wanted & {name.lower().replace("_", "-") for name in names}
    } | {one.replace("-", "_") for one in wanted if one.startswith("manor-")}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_declares_every_package_that_it_imports_and_no_other(room):
    used = {name for file in ROOMS[room].rglob("*.py") for name in imported(file)}
    used -= {*sys.stdlib_module_names, ROOMS[room].name}
    assert used - declared(ROOMS[room]) == set()
    assert declared(ROOMS[room]) - used <= {"manor_host"}  # the room under all rooms


def loaded_with(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run when a module is loaded: not those of functions, nor those for types alone."""
    waiting: list[ast.AST] = [*tree.body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif isinstance(node, ast.stmt) and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            waiting += ast.iter_child_nodes(node)


def loads(tree: ast.Module, modules: Collection[str]) -> Iterator[str]:
    """Which of these modules a module loads when it is loaded."""
    for node in loaded_with(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            inner = {f"{node.module}.{name.name}" for name in node.names}
            yield from inner & set(modules) or {node.module}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle in a graph of imports; empty when there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_load_each_other_in_a_circle():
    modules = {module_name(file): ast.parse(file.read_text(encoding="utf-8")) for file in sources()}
    assert circle({name: set(loads(tree, modules)) for name, tree in modules.items()}) == []


def test_a_circle_of_imports_is_seen():
    texts = {"a": "import b", "b": "from c import x", "c": "class C:\n    import a"}
    assert circle({name: set(loads(ast.parse(text), texts)) for name, text in texts.items()})
    texts["c"] = "def f():\n    import a\nif TYPE_CHECKING:\n    import a"
    assert not circle({name: set(loads(ast.parse(text), texts)) for name, text in texts.items()})


def test_the_track_record_names_tests_that_there_are():
    named = re.findall(
        r"(tests/[\w/]+\.py)::(\w+)", (ROOT / "docs/track-record.md").read_text(encoding="utf-8")
    )
    assert named
    assert [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).exists() or f"def {name}(" not in (ROOT / path).read_text(encoding="utf-8")
    ] == []
