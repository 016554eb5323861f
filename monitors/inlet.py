"""What the other sidecars may ask of this one, each proving that it knows the cluster's secret."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TypeVar

import msgspec
from aiohttp import web

from monitors.exchange import HELD, JOIN
from monitors.inquiry import EXPLANATION, Inquiry, answered
from monitors.labels import Label
from monitors.parcel import Delivery, Receipt
from monitors.peers import HEADER, holds
from monitors.post import SLOTS
from monitors.questions import ANSWER_S, Asking, Holding, Labelling, Questions, ask
from monitors.report import Report
from serving.errors import BadRequest, Forbidden, GaugewayError, NotReady

VERDICTS = "/verdicts"

T = TypeVar("T")
Take = Callable[[Delivery], "Future[Receipt]"]


class Inlet:
    """Routes for the peers' listener. `take` hands a delivery to the judge, if that is here."""

    def __init__(self, secret: bytes, questions: Questions, take: Take) -> None:
        self._secret, self._questions, self._take = secret, questions, take

    def routes(self) -> list[web.RouteDef]:
        answers = {
            SLOTS: self.slots,
            HELD: self.held,
            JOIN: self.join,
            VERDICTS: self.verdicts,
            EXPLANATION: self.explanation,
        }
        return [web.post(path, self._guarded(answer)) for path, answer in answers.items()]

    async def slots(self, body: bytes) -> bytes:
        receipt = self._take(_decode(body, Delivery))
        try:
            return msgspec.msgpack.encode(await asyncio.wait_for(asyncio.wrap_future(receipt), ANSWER_S))
        except TimeoutError:
            raise NotReady(f"the judge stored nothing within {ANSWER_S:g} s") from None

    async def held(self, body: bytes) -> bytes:
        return msgspec.msgpack.encode(await ask(self._questions, Holding(_decode(body, list[Label]))))

    async def join(self, body: bytes) -> bytes:
        labelling = Labelling(_decode(body, list[tuple[int, Label]]))
        return msgspec.msgpack.encode(await ask(self._questions, labelling))

    async def verdicts(self, body: bytes) -> bytes:
        report: Report = await ask(self._questions, Asking())
        if report.document is None:
            raise NotReady("this sidecar is not the judge")
        return msgspec.json.encode(report.document)

    async def explanation(self, body: bytes) -> bytes:
        """HTTP status and JSON, whatever they are: the other node passes them on."""
        inquiry = _decode(body, Inquiry)
        report: Report = await ask(self._questions, Asking())
        if report.document is None:
            raise NotReady("this sidecar is not the judge")
        found = await asyncio.get_running_loop().run_in_executor(None, answered, report.verdicts, inquiry)
        return msgspec.msgpack.encode(found)

    def _guarded(self, answer: Callable[[bytes], Awaitable[bytes]]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def respond(request: web.Request) -> web.Response:
            try:
                body = await request.read()
                proof = request.headers.get(HEADER, "")
                if not holds(self._secret, request.path, body, proof, time.time()):
                    raise Forbidden("the request does not prove that its sender knows the cluster's secret")
                return web.Response(body=await answer(body))
            except GaugewayError as error:
                return web.Response(text=str(error), status=error.status)

        return respond


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise BadRequest(f"expected {kind}: {error}") from None
