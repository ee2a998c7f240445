"""A model that says what it is told, behind a true server on this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from model.http.faces import Faces
from model.http.server import ModelServer
from tests.model.http.talker import Site, Talker


@pytest.fixture
def talker() -> Talker:
    return Talker()


@pytest.fixture
async def serve(talker: Talker) -> AsyncIterator[Any]:
    """Starts servers; parameters are those of Faces and, in a dict `server`, of ModelServer."""
    sites: list[Site] = []

    async def start(server: dict[str, Any] | None = None, **options: Any) -> Site:
        listening = ModelServer(Faces(talker, **{"ping_every": 0.0, **options}), port=0, **(server or {}))
        await listening.start()
        sites.append(Site(listening, aiohttp.ClientSession()))
        return sites[-1]

    yield start
    talker.release.set()
    for site in sites:
        await site.client.close()
        await site.server.stop()


@pytest.fixture
async def site(serve: Any) -> Site:
    made: Site = await serve()
    return made
