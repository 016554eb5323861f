"""Links follow what is announced, here and elsewhere; a list that is late, or a node that is dark, harms nobody."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from serving.config import Config, parse
from serving.dataplane import DataPlane
from serving.discovery import Announcement, announce, prepare, tell_of_others
from serving.engine import Engine
from serving.links import Links
from serving.locality import MOST
from serving.metrics import Page
from serving.trust import Trust
from tests.replicas import Function, listening, manifest, until
from tests.test_dataplane import table

SECRET = "the secret of this cluster, which both ends know"
OF = manifest()


class Site:
    """A worker's links, and replicas here and there that are engines of this process."""

    def __init__(self, folder: Path, config: Config, links: Links, plane: DataPlane, engines: AsyncExitStack) -> None:
        self.folder, self.config, self.links, self.plane, self._engines = folder, config, links, plane, engines
        self.refused = 0

    async def near(self, name: str) -> Path:
        engine, socket = self._engine(name), self.folder / f"{name}.sock"
        await self._engines.enter_async_context(listening(engine, socket))
        one = Announcement("m", "1", OF.digest, name, str(socket), 0)
        return announce(self.config.socket_dir, one)

    async def far(self, name: str, secret: str = SECRET) -> Announcement:
        engine = self._engine(name)
        await self._engines.enter_async_context(listening(engine, self.folder / f"{name}.sock"))
        port = await engine.listen_far("127.0.0.1", Trust(secret.encode()), self._refuse)
        return Announcement("m", "1", OF.digest, name, "", 0, node="another", address=f"127.0.0.1:{port}")

    def tell(self, *others: Announcement) -> None:
        tell_of_others(self.config.socket_dir, others)

    async def linked(self, *names: str) -> None:
        """Until the links are exactly these, and ready."""
        await self.follow(lambda: self.states() == dict.fromkeys(names, "ready"))

    async def follow(self, condition: Callable[[], object]) -> None:
        """Look as a worker does until it holds, and once more, which must not change it."""
        for _ in range(2):
            end = asyncio.get_running_loop().time() + 10
            await self.links.refresh()
            while not condition():
                assert asyncio.get_running_loop().time() < end, f"the condition did not come: {self.states()}"
                await asyncio.sleep(0.01)
                await self.links.refresh()

    def states(self) -> dict[str, str]:
        return {str(link["replica"]): str(link["state"]) for link in self.links.report()}

    def _engine(self, name: str) -> Engine:
        return Engine(OF, Function(lambda x: x), replica=name)

    def _refuse(self) -> None:
        self.refused += 1


@asynccontextmanager
async def _site(folder: Path) -> AsyncIterator[Site]:
    config = parse({"data_dir": str(folder), "channel": {"secret": SECRET}})
    prepare(config.socket_dir)
    page = Page(folder / "page")
    plane = DataPlane(config.gateway, page, None)
    plane.install(table(1, {"1": 1.0}, OF))
    links = Links(config, plane)
    async with AsyncExitStack() as engines:
        yield Site(folder, config, links, plane, engines)
        links.close()
    await until(lambda: not links.report())
    plane.close()


def _run(folder: Path, test: Callable[[Site], Awaitable[None]]) -> None:
    async def main() -> None:
        async with _site(folder) as site:
            await test(site)

    asyncio.run(main())


def test_replicas_of_all_nodes_and_where_they_are(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        await site.near("here")
        site.tell(await site.far("there"))
        await site.linked("here", "there")
        assert {link["replica"]: link["far"] for link in site.links.report()} == {"here": False, "there": True}
        batcher = site.plane.batcher("m", "1", OF.digest)
        assert batcher is not None and len(batcher.links) == 2

    _run(tmp_path, main)


def test_what_a_late_list_lacks_is_kept_as_long_as_it_answers(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        near = await site.near("here")
        there, gone = await site.far("there"), await site.far("gone")
        site.tell(there, gone)
        await site.linked("here", "there", "gone")
        site.tell()  # of a controller that has only begun to ask
        await site.linked("here", "there", "gone")
        near.unlink()  # what a replica of this node says of itself is true at once
        await site.linked("there", "gone")
        next(link for name, link in site.links._links.items() if name == "gone").close()
        await site.linked("there")

    _run(tmp_path, main)


def test_of_many_replicas_elsewhere_it_is_linked_to_its_share(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        one = await site.far("one")  # that answers for all
        named = [
            Announcement("m", "1", OF.digest, f"r{n}", "", 0, node="another", address=one.address)
            for n in range(2 * MOST)
        ]
        await site.near("here")
        site.tell(*named)
        await site.follow(lambda: len(site.states()) == MOST)
        assert "here" in site.states()
        before = set(site.states())
        gone = next(name for name in sorted(before) if name != "here")
        site.links._links[gone].close()
        site.tell(*[other for other in named if other.replica != gone])
        await site.follow(lambda: len(before - set(site.states())) == 1)
        await site.follow(lambda: len(site.states()) == MOST)
        assert before - set(site.states()) == {gone}, "only the link of the one that left has moved"

    _run(tmp_path, main)


def test_a_node_that_is_dark_keeps_nobody_waiting(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def main(site: Site) -> None:
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        dark = [Announcement("m", "1", OF.digest, f"dark-{n}", "", 0, node="d", address=address) for n in range(20)]
        site.tell(*dark, await site.far("there"))
        await site.near("here")
        start = asyncio.get_running_loop().time()
        await site.linked("here", "there")
        assert asyncio.get_running_loop().time() - start < 1
        server.close()

    _run(tmp_path, main)


def test_a_replica_that_knows_another_secret_is_not_linked_to_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(site: Site) -> None:
        await site.near("here")
        site.tell(await site.far("stranger", secret="another secret, of another cluster"))
        await site.linked("here")
        await site.follow(lambda: site.refused >= 2)
        assert site.states() == {"here": "ready"}

    with caplog.at_level(logging.WARNING, "gaugeway.links"):
        _run(tmp_path, main)
    assert len([line for line in caplog.messages if "stranger" in line]) == 1
