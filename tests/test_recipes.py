"""The recipes of CONTRIBUTING.md, followed step by step in a copy of the sources."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COPIED = ("bus", "cli", "docs", "host", "services")
RUN_S = 120.0


@dataclass
class Copy:
    """A copy of the sources that programs run from."""

    root: Path
    elsewhere: Path  # in front of it on the path: other people's distributions

    def edit(self, path: str, before: str, after: str) -> None:
        """Replace one text, which must be there once."""
        file = self.root / path
        content = file.read_text(encoding="utf-8")
        assert content.count(before) == 1, (path, before, content.count(before))
        file.write_text(content.replace(before, after), encoding="utf-8")

    def append(self, path: str, text: str) -> None:
        """Add to the end of a file, which may be a new one."""
        with (self.root / path).open("a", encoding="utf-8") as file:
            file.write(text)

    def python(self, *arguments: str) -> str:
        """Run Python with the copy's rooms; returns what it printed."""
        rooms = [str(file.parent) for file in sorted(self.root.rglob("pyproject.toml"))]
        path = os.pathsep.join([str(self.elsewhere), *rooms, str(ROOT)])
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.root, env={**os.environ, "PYTHONPATH": path},
            capture_output=True, text=True, timeout=RUN_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def page(self, name: str) -> str:
        """Make the docs anew, as `make docs` does; return a page."""
        self.python("docs/generate.py")
        return (self.root / "docs" / name).read_text(encoding="utf-8")


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "node_modules")
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / "copy" / name, ignore=ignored)
    (tmp_path / "elsewhere").mkdir()
    return Copy(tmp_path / "copy", tmp_path / "elsewhere")


def test_every_recipe_is_followed_here() -> None:
    recipes = re.findall(
        r"^## (Add .*)$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert recipes == ["Add a message", "Add a device field", "Add a back end", "Add a command"]


ASK = """
import asyncio
from pathlib import Path
from manor_bus.settings import BusSettings
from manor_bus.wire.messages.discovery import Count, Counted
from manor_discovery.service import open_room
from manor_discovery.settings import Settings
from tests.testkit import virtual
from tests.testkit.house import house

async def ask():
    settings = Settings(bus=BusSettings("n1", "", Path(), Path()), directory=Path())
    async with house(discovery=(open_room, settings)) as home:
        print(await home.peer().call(Count(kind="domain"), Counted, timeout=5))

virtual.run(ask())
"""


def test_a_message_is_added_answered_and_documented(copy: Copy) -> None:
    messages = "bus/manor_bus/wire/messages/discovery.py"
    copy.edit(
        messages,
        'CALLS: Final = (Call("discovery.find", Find, Found, part=FoundPart),)',
        '''class Count(Message, frozen=True, kw_only=True):
    """Ask how many there are."""

    kind: str


class Counted(Message, frozen=True, kw_only=True):
    """So many."""

    count: int


CALLS: Final = (
    Call("discovery.find", Find, Found, part=FoundPart),
    Call("discovery.count", Count, Counted),
)''',
    )
    service = "services/discovery/manor_discovery/service.py"
    copy.edit(service, "import Entry, Find", "import Count, Counted, Entry, Find")
    copy.edit(service, "{Find: discovery.find}", "{Find: discovery.find, Count: discovery.count}")
    copy.edit(
        service,
        "    async def find(",
        '''    async def count(self, request: Count, context: Context) -> Counted:
        """Count the facts of a kind."""
        return Counted(count=sum(1 for _ in self._facts.find(request.kind, "", self._clock())))

    async def find(''',
    )
    assert "discovery.count" in copy.page("messages.md")
    assert copy.python("-c", ASK) == "Counted(count=0)\n"


DECODED = """
from manor_bus.wire import codec
from manor_bus.wire.messages.documents import Disk
old = {"id": "vda", "volume": "root"}
new = {**old, "colour": "red"}
print(*(codec.decode(codec.encode(disk), Disk).colour for disk in (old, new)))
"""


def test_a_device_field_is_added_documented_and_older_documents_are_read(copy: Copy) -> None:
    copy.edit(
        "bus/manor_bus/wire/messages/documents.py",
        'raw, unless its bytes are known to be something else: then it is refused.\n    """\n\n    id: str',
        'raw, unless its bytes are known to be something else: then it is refused.\n    """\n\n'
        '    colour: str = "grey"  # of its label\n    id: str',
    )
    assert "of its label" in copy.page("documents.md")
    assert copy.python("-c", DECODED) == "grey red\n"


BACK_END = '''"""A back end of somebody else's."""

from manor_devices.backends.fake import FakeBackend as Cloud, World


def open_backend(settings):
    return Cloud(settings, World(fresh=False))
'''
FOUND = """
from manor_devices.modules import installed
found = installed()["cloud"]
print(found.version, found.load().__name__)
"""


def test_a_back_end_of_another_distribution_is_found(copy: Copy) -> None:
    packaged = copy.elsewhere / "cloud_backend-1.2.dist-info"
    packaged.mkdir()
    (packaged / "METADATA").write_text("Metadata-Version: 2.1\nName: cloud-backend\nVersion: 1.2\n")
    (packaged / "entry_points.txt").write_text("[manor.backends]\ncloud = cloud_backend:open_backend\n")
    (copy.elsewhere / "cloud_backend.py").write_text(BACK_END)
    assert copy.python("-c", FOUND) == "1.2 open_backend\n"


VERB = '''"""`manor hello`: greet a domain."""

from __future__ import annotations

import click

from manor_bus.wire.errors import not_found
from manor_cli.app import App


@click.command()
@click.argument("name")
@click.pass_obj
def hello(app: App, name: str) -> None:
    """Greet a domain.

    \\b
    Example:
      manor hello web
    """
    if name == "nobody":
        raise not_found("there is nobody", hint="Greet somebody.")
    app.out(f"hello {name}")
'''
SAY = "from manor_cli.main import main; print(main(['hello', '{}']))"


def test_a_command_is_added_with_its_help_page_and_exit_codes(copy: Copy) -> None:
    copy.append("cli/manor_cli/commands/hello.py", VERB)
    copy.edit(
        "cli/manor_cli/main.py",
        '        "node": "init up down status node",',
        '        "hello": "hello", "node": "init up down status node",',
    )
    assert copy.python("-c", SAY.format("web")) == "hello web\n0\n"
    assert copy.python("-c", SAY.format("nobody")) == "3\n"
    assert "manor hello" in copy.page("cli.md")
