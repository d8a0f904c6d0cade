"""Runs a cluster on this machine until Ctrl-C, for scripts/cluster."""

from __future__ import annotations

import argparse
import asyncio
import signal
import tempfile
from pathlib import Path

from testkit.balancer import Balancer
from testkit.cluster import Cluster, running_cluster
from testkit.paths import ROOT


async def _run(options: argparse.Namespace, folder: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    cluster = Cluster(folder, options.models, servers=options.servers, workers=options.workers)
    print("Starting PostgreSQL, the API servers and the workers …", flush=True)
    async with running_cluster(cluster):
        balancer = Balancer([server.url for server in cluster.servers])
        try:
            port = await balancer.start(options.port)
            for member in (*cluster.servers, *cluster.workers):
                print(f"  {member.name}: log {member.log}")
            print(f"Listening on http://127.0.0.1:{port}, which passes on to the API servers")
            print(f"  curl -F image=@photo.jpg http://127.0.0.1:{port}/api/v1/upscale")
            print(f"  upscaled cluster status --config {cluster.servers[0].config}", flush=True)
            await stop.wait()
            print("Ending all of it.", flush=True)
        finally:
            await balancer.close()


def main() -> None:
    """Run the cluster that the command line asks for."""
    parser = argparse.ArgumentParser("scripts/cluster", description=__doc__)
    parser.add_argument("--port", type=int, default=8080, help="of the load balancer")
    parser.add_argument("--servers", type=int, default=2, help="how many API servers")
    parser.add_argument("--workers", type=int, default=3, help="how many workers")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="folder of models")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="upscaled-cluster-") as folder:
        asyncio.run(_run(options, Path(folder)))


if __name__ == "__main__":
    main()
