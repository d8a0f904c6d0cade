"""A running server: the real service and application, on a port, in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import threading
from collections.abc import Coroutine, Mapping
from pathlib import Path
from random import SystemRandom
from typing import Any, TypeVar

import aiohttp
from aiohttp import web
from PIL import Image
from psycopg_pool import base as psycopg_pools

from testkit import contract
from testkit.contract import Answer
from testkit.services import make_config
from upscaled.api.app import make_app
from upscaled.api.connections import Connections
from upscaled.api.context import CONNECTIONS
from upscaled.cluster.cleanup import SharedCleaner
from upscaled.config.settings import Config
from upscaled.jobs.job import Job
from upscaled.server.roles import make_service

T = TypeVar("T")

FAST_MODEL = "realesr-animevideov3"

# Hypothesis takes a change of the global generator, in whichever thread, for one by the test.
vars(psycopg_pools)["random"] = SystemRandom().random


class Server:
    """Serves from `start` to `stop`; its event loop is not the test's.

    Where the settings name a cluster, it is an API server and a worker of that.
    """

    def __init__(self, config: Config, *, self_test: bool = False) -> None:
        self.config = config
        self.self_test = self_test  # without it, the health stays `starting`
        self.data_dir = config.data_dir
        self.service = make_service(config, works=config.cluster.used)
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="server", daemon=True)
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Base address of the endpoints."""
        return f"http://127.0.0.1:{self.port}{self.config.server.api_prefix}"

    def start(self) -> None:
        """Start the thread, the service and the application."""
        self._thread.start()
        # Measuring the models for the first time takes seconds, on a busy machine many.
        self.call(self._start()).result(240)

    async def _start(self) -> None:
        await self.service.start()
        if self.self_test:
            self.service.watch_health()
            await self.service.health_known()
        app = self.app = make_app(self.service)
        self._connections = app[CONNECTIONS]
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        assert self._runner.server is not None
        factory = app[CONNECTIONS].factory(self._runner.server)
        self._listening = await self._loop.create_server(factory, "127.0.0.1", 0)
        self.port = self._listening.sockets[0].getsockname()[1]

    def stop_serving(self) -> None:
        """Stop the application and the service."""
        self.call(self._stop()).result(60)

    def stop(self) -> None:
        """Stop all of it."""
        self.stop_serving()
        self.call(self._loop.shutdown_default_executor()).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _stop(self) -> None:
        if self._runner is not None:
            assert self._listening is not None
            self._listening.close()
            await self._runner.cleanup()
            self._runner = None
            await self.service.stop()

    def call(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Do ``work`` in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def ended(self, job_id: str) -> Job:
        """Wait until a job has ended."""
        return await asyncio.wait_for(
            asyncio.wrap_future(self.call(self.service.jobs.wait(job_id))), 90
        )

    def connections(self) -> Connections:
        """Return the server's open connections."""
        return self._connections

    def uploads(self) -> list[Path]:
        """Return the files of submissions that are being received, or were left behind."""
        return list((self.data_dir / "incoming").iterdir())

    def result_file(self, job_id: str) -> Path:
        """Return the path of a job's result, whether it exists or not."""
        if self.config.cluster.used:
            found = [*Path(self.config.cluster.blobs, "results", job_id).glob("*")]
        else:
            found = [*(self.data_dir / "jobs" / job_id).glob("result.*")]
        (path,) = found or [Path("/gone")]
        return path

    def files_of(self, job_id: str) -> list[str]:
        """Return the names of the files that are kept of a job, as one machine names them.

        Those of a worker of a cluster are not among them: it hears of the end a little later.
        """
        found = [path.name for path in (self.data_dir / "jobs" / job_id).glob("*")]
        if self.config.cluster.used:
            blobs = Path(self.config.cluster.blobs)
            found += ["upload" for _ in blobs.glob(f"uploads/{job_id}")]
            found += [f"result{path.suffix}" for path in blobs.glob(f"results/{job_id}/*")]
        return found

    def jobs_with_files(self) -> set[str]:
        """Return the ids of the jobs of which there are files."""
        folders = [self.data_dir / "jobs"]
        if self.config.cluster.used:
            blobs = Path(self.config.cluster.blobs)
            folders += [self.data_dir / "work" / "jobs", blobs / "uploads", blobs / "results"]
        return {path.name for folder in folders for path in folder.glob("*")}

    def clean(self, now: float) -> None:
        """Have the service delete what is old at ``now``."""
        cleaner = self.service._cleaner
        if isinstance(cleaner, SharedCleaner):
            self.call(cleaner.clean_old(now)).result(30)
            self.call(cleaner.sweep(now)).result(30)
        else:
            self.call(cleaner.clean(now)).result(30)


class Api:
    """Calls a server; every answer is checked against the contract."""

    def __init__(self, server: Server, token: str | None = None) -> None:
        self.server = server
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Api:
        self._session = aiohttp.ClientSession(headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        """Send a request to ``path`` below the prefix; return the answer, contract checked."""
        assert self._session is not None
        async with self._session.request(method, self.server.url + path, **options) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            answer = Answer(response.status, headers, await response.read())
        assert headers["server"] == "upscaled"
        contract.check(method, path.partition("?")[0], answer)
        return answer

    async def get(self, path: str, **options: Any) -> Answer:
        """``GET path``."""
        return await self.call("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Answer:
        """``POST path``."""
        return await self.call("POST", path, **options)

    async def upscale(
        self,
        picture: bytes | None,
        fields: Mapping[str, str] | None = None,
        *,
        filename: str = "photo.png",
        query: str = "",
        **options: Any,
    ) -> Answer:
        """Submit ``picture`` with form fields, ``options`` are `call`'s."""
        form = aiohttp.FormData(default_to_multipart=True)
        for name, value in (fields or {}).items():
            form.add_field(name, value)
        if picture is not None:
            form.add_field("image", picture, filename=filename)
        return await self.post("/upscale" + query, data=form, **options)

    async def accepted(self, picture: bytes | None = None, **fields: str) -> str:
        """Submit a picture that is accepted; return the job's id."""
        values = {"model_name": FAST_MODEL, "scale": "2", **fields}
        filename = values.pop("filename", "photo.png")
        answer = await self.upscale(picture or a_picture(), values, filename=filename)
        assert answer.status == 202, answer
        return str(answer.json["job_id"])

    async def completed(self, picture: bytes | None = None, **fields: str) -> str:
        """Submit a picture and wait for its result; return the job's id."""
        job_id = await self.accepted(picture, **fields)
        job = await self.server.ended(job_id)
        assert job.state.value == "completed", job
        return job_id


def a_picture(width: int = 24, height: int = 16, kind: str = "PNG") -> bytes:
    """Return a picture with some content, encoded."""
    pixels = bytes(
        value
        for y in range(height)
        for x in range(width)
        for value in (255 * x // width, 255 * y // height, 128 + (x * y) % 64)
    )
    file = io.BytesIO()
    Image.frombytes("RGB", (width, height), pixels).save(file, kind)
    return file.getvalue()


def configured(data_dir: Path, models_dir: Path, **settings: str) -> Config:
    """Return a configuration for tests; ``server__auth_token="x"`` sets ``server.auth_token``."""
    usual = {"upscaler__gpu_ids": "-1", "server__drain_seconds": "0", "features__web": "true"}
    chosen = usual | settings
    return make_config(data_dir, models_dir, **chosen)
