"""Over TCP nobody gets a word in who does not prove the cluster's secret; then the channel is the same as ever."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from serving import channel, frames, trust
from serving.channel import Call, Link, Outcome, Result, connect_far
from serving.config import ChannelTls
from serving.engine import Engine
from serving.errors import ConfigError, Untrusted
from serving.frames import Kind, Layouts
from serving.trust import Trust
from tests import certificates
from tests.replicas import Function, X, column, listening, manifest, until

HOST = "127.0.0.1"
SECRET = Trust(b"the secret of this cluster, as hex")
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


class Far:
    """A replica that listens on TCP, and what it refused."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.refused, self.port = engine, 0, 0

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def refuse(self) -> None:
        self.refused += 1


@asynccontextmanager
async def far(folder: Path, mine: Trust = SECRET) -> AsyncIterator[Far]:
    replica = Far(Engine(manifest(), Function(lambda x: 2 * x), replica="r"))
    async with listening(replica.engine, folder / "s"):
        replica.port = await replica.engine.listen_far(HOST, mine, replica.refuse)
        yield replica


def run(main: Coroutine[Any, Any, None], loop: Callable[[], asyncio.AbstractEventLoop] = LOOPS[0]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main)


async def _answer(link: Link, k: float) -> float:
    outcomes: list[Outcome] = []
    body = frames.to_bytes("FP32", column(k))
    meta = Layouts().encode([X], ((1, 1),), (len(body),))
    deadline = asyncio.get_running_loop().time() + 30
    link.send(Call(meta, [body], 1, deadline, lambda link, outcome: outcomes.append(outcome)))
    await until(lambda: outcomes)
    assert isinstance(outcomes[0], Result), outcomes
    return float(outcomes[0].outputs[0][0, 0])


async def _linked(address: str, mine: Trust = SECRET) -> Link:
    link = await connect_far(address, mine, lambda link: None)
    await until(lambda: link.state == "ready")
    return link


async def _close(link: Link) -> None:
    link.close()
    await until(lambda: link.state == "lost")


@pytest.mark.parametrize("loop", LOOPS)
def test_who_knows_the_secret_is_answered(tmp_path: Path, loop: "type[asyncio.AbstractEventLoop]") -> None:
    async def main() -> None:
        async with far(tmp_path) as replica:
            link = await _linked(replica.address)
            assert [await _answer(link, k) for k in range(5)] == [0, 2, 4, 6, 8]
            assert link.far and link.hello is not None and not link.hello.shares
            await _close(link)
            assert replica.refused == 0

    run(main(), loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_wrong_secret_is_refused_and_counted_and_opens_no_connection(
    tmp_path: Path, loop: "type[asyncio.AbstractEventLoop]"
) -> None:
    async def main() -> None:
        async with far(tmp_path) as replica:
            for n in range(1, 4):
                with pytest.raises(Untrusted):
                    await connect_far(replica.address, Trust(b"another one"), lambda link: None)
                await until(lambda n=n: replica.refused == n)  # type: ignore[misc]
            assert replica.engine.connections == set()
            await _close(await _linked(replica.address))

    run(main(), loop)


def test_a_replica_that_does_not_know_the_secret_gets_no_request(tmp_path: Path) -> None:
    """It may accept what a gateway proves: it cannot prove itself, and what the gateway said opens no other door."""
    heard: list[bytes] = []

    async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"GWT1" + bytes(32))
            heard.append(await reader.readexactly(64))
            writer.write(heard[0][32:])  # its own proof, sent back
            heard.append(await reader.read())
        finally:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(impostor, HOST, 0)
        address = f"{HOST}:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(Untrusted, match="wrong proof"):
            await connect_far(address, SECRET, lambda link: None)
        await until(lambda: len(heard) == 2)
        assert heard[1] == b""
        server.close()
        async with far(tmp_path) as replica:  # a handshake that was recorded
            reader, writer = await asyncio.open_connection(HOST, replica.port)
            await reader.readexactly(36)
            writer.write(heard[0])
            assert await _ended(reader)
            writer.close()
            await until(lambda: replica.refused == 1)

    run(main())


@pytest.mark.parametrize("said", [b"", b"\0" * 63, b"\0" * 64, b"\0" * 5000, frames.head(Kind.HELLO)])
def test_who_says_something_else_or_nothing_is_refused_in_time(
    tmp_path: Path, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "PROVE_S", 0.2)

    async def main() -> None:
        async with far(tmp_path) as replica:
            reader, writer = await asyncio.open_connection(HOST, replica.port)
            writer.write(said)
            assert len(await reader.readexactly(36)) == 36 and await _ended(reader)
            writer.close()
            await until(lambda: replica.refused == 1)
            assert replica.engine.connections == set()

    run(main())


def test_those_that_prove_nothing_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "MAX_PENDING", 3)

    async def main() -> None:
        async with far(tmp_path) as replica:
            idle = [await asyncio.open_connection(HOST, replica.port) for _ in range(3)]
            for reader, _ in idle:
                await reader.readexactly(36)
            reader, writer = await asyncio.open_connection(HOST, replica.port)
            assert await _ended(reader) and replica.refused == 1
            for _, one in [*idle, (reader, writer)]:
                one.close()
            await until(lambda: replica.refused == 4)
            await _close(await _linked(replica.address))

    run(main())


@pytest.mark.parametrize("loop", LOOPS)
def test_with_certificates_both_ends_must_have_one_of_the_authority(
    tmp_path: Path, loop: "type[asyncio.AbstractEventLoop]"
) -> None:
    ours, theirs = certificates.of_nodes(tmp_path / "ours"), certificates.of_nodes(tmp_path / "theirs")
    secret = "the same secret, which is not enough"
    us, others = trust.trust(secret, ours), trust.trust(secret, theirs)

    async def main() -> None:
        async with far(tmp_path, us) as replica:
            link = await _linked(replica.address, us)
            assert await _answer(link, 21) == 42
            await _close(link)
            for stranger in (others, Trust(secret.encode())):
                with pytest.raises((OSError, Untrusted)):
                    async with asyncio.timeout(5):
                        await connect_far(replica.address, stranger, lambda link: None)
            assert replica.engine.connections == set()

    run(main(), loop)


def test_certificates_that_do_not_serve_are_refused_with_their_names(tmp_path: Path) -> None:
    good = certificates.of_nodes(tmp_path / "a")
    other = certificates.of_nodes(tmp_path / "b")
    with pytest.raises(ConfigError, match=r"\[channel\] tls.*nothing\.pem"):
        trust.trust("", ChannelTls(certificate="nothing.pem", key=good.key, ca=good.ca))
    with pytest.raises(ConfigError, match="KEY_VALUES_MISMATCH"):
        trust.trust("", ChannelTls(certificate=good.certificate, key=other.key, ca=good.ca))


def test_a_far_link_is_judged_by_its_silence_as_a_near_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that proves itself and then never says a word more, as one behind a network that went dark."""
    monkeypatch.setattr(channel, "DEAD_S", 0.6)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            random = bytes(range(32))
            writer.write(b"GWT1" + random)
            said = await reader.readexactly(64)
            writer.write(SECRET.proof(b"replica", random, said[:32]))
            await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(silent, HOST, 0)
        address = f"{HOST}:{server.sockets[0].getsockname()[1]}"
        start = asyncio.get_running_loop().time()
        link = await connect_far(address, SECRET, lambda link: None)
        await until(lambda: link.state == "lost")
        assert 0.5 < asyncio.get_running_loop().time() - start < 2
        server.close()

    run(main())


def test_what_a_listener_accepts_is_ended_by_the_kernel_when_the_other_machine_is_gone() -> None:
    with trust.listener(HOST) as server:
        server.setblocking(True)
        with socket.create_connection(server.getsockname()), server.accept()[0] as accepted:
            options = [accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
            options += [accepted.getsockopt(socket.IPPROTO_TCP, o) for o in (socket.TCP_KEEPIDLE, socket.TCP_KEEPCNT)]
            assert options == [1, 5, 5]
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == trust.GONE_S * 1000


async def _ended(reader: asyncio.StreamReader) -> bool:
    """Whether the other end closes, be it in order or not."""
    try:
        async with asyncio.timeout(5):
            return await reader.read(1) == b""
    except ConnectionError:
        return True
