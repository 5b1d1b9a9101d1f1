"""`shoal report` and `shoal open`: a clustering to look at."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from shoal.cli.flags import StoreRoot, expanded
from shoal.cli.output import err
from shoal.client import Client
from shoal.errors import ClusteringNotFound, Unavailable
from shoal.settings import Settings
from shoal.store import Store


def report(
    clustering: Annotated[str, typer.Argument(help="Id of the clustering.")],
    output: Annotated[
        Path | None, typer.Option(help="The file, or the folder it goes into; CLUSTERING.html by default.")
    ] = None,
) -> None:
    """Save the report of a clustering as one HTML file that needs no other file and no network."""
    target = expanded(output) or Path()
    target = target / f"{clustering}.html" if target.is_dir() else target
    with Client() as client:
        client.clustering(clustering)
        target.parent.mkdir(parents=True, exist_ok=True)
        client.download(clustering, "report", target)
    typer.echo(f"{target}: {target.stat().st_size:,} bytes")


def open_(
    clustering: Annotated[str | None, typer.Argument(help="Id of a clustering; the start page by default.")] = None,
    store: StoreRoot = None,
    browser: Annotated[bool, typer.Option(help="Open a browser, or print the address only.")] = True,
) -> None:
    """Open the page of a clustering in a browser. Where no service answers, open its report in the local store."""
    address = _page(clustering) or _stored(clustering, store)
    typer.echo(address)
    if browser and not webbrowser.open(address):
        err.print("No browser was found: open this address in one.", highlight=False)


def _page(clustering: str | None) -> str | None:
    """The address of the page; None where the clusterer does not answer."""
    with Client() as client:
        base = Settings().clusterer_url.rstrip("/")
        try:
            if clustering is not None:
                client.clustering(clustering)
            elif "service" in client.ready()["clusterer"].get("checks", {}):
                return None
        except Unavailable:
            return None
    return f"{base}/" if clustering is None else f"{base}/ui/clusterings/{quote(clustering, safe='')}"


def _stored(clustering: str | None, store: Path | None) -> str:
    if clustering is not None:
        opened = Store.of(Settings(), store)
        try:
            found = opened.clustering(clustering)
        except ClusteringNotFound:
            pass
        else:
            return found.check(found.layout.report_html).resolve().as_uri()
    raise Unavailable(
        f"No clusterer answers at {Settings().clusterer_url}: start one with `shoal up`, or name it in "
        "SHOAL_CLUSTERER_URL."
    )
