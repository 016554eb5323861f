import asyncio

import aiohttp
from aiohttp import web

from serving.demo.verdicts import Verdicts, fetch

DOCUMENT = {
    "clock": 1364774400.5, "lost_rows": 3, "lag_s": 0.1, "settled": False, "dropped_rows": {},
    "models": {"flights": {"1": {
        "digest": "d", "state": "ok", "rows": 12, "promise": "p", "notes": [],
        "drift": {"temp": {"log_e": 1.5, "threshold": 5.2, "psi": 0.1, "ks": 0.2, "alarm": False, "n": 9}},
        "risk": {"mean": None, "n": 0, "log_e": 0.0, "threshold": 5.2, "alarm": False, "bound": 0.2},
        "labels": {"joined": 4, "expected": 12, "parked": 0, "unknown": 0, "coverage_ratio": None,
                   "delay_s": {"p50": None, "p99": None}},
    }}},
}  # fmt: skip


def fetched(status: int) -> Verdicts | None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(DOCUMENT, status=status)

    async def main() -> Verdicts | None:
        app = web.Application()
        app.add_routes([web.get("/verdicts", answer)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with aiohttp.ClientSession() as session:
                return await fetch(session, f"http://127.0.0.1:{runner.addresses[0][1]}/verdicts")
        finally:
            await runner.cleanup()

    return asyncio.run(main())


def test_what_is_shown_is_read_and_the_rest_left_alone() -> None:
    found = fetched(200)
    assert found is not None
    version = found.of("flights")["1"]
    assert (version.rows, version.labels.joined, version.drift["temp"].log_e) == (12, 4, 1.5)
    assert version.risk.mean is None
    assert (found.clock, found.lost_rows, found.settled) == (1364774400.5, 3, False)
    assert found.of("other") == {}


def test_a_sidecar_that_is_away_says_nothing() -> None:
    assert fetched(503) is None

    async def main() -> Verdicts | None:
        async with aiohttp.ClientSession() as session:
            return await fetch(session, "http://127.0.0.1:9/verdicts")

    assert asyncio.run(main()) is None
