"""`shoal keys`: create, list and revoke API keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from shoal.cli.flags import AsJson, StoreRoot
from shoal.cli.output import columns_of, err, print_table
from shoal.embedded import open_queue
from shoal.keys import KeyStore, Scope
from shoal.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Create, list and revoke the API keys of the services. Keys are stored in the queue at REDIS_URL or, if that "
    "is not set, in the store's own queue, which works without `shoal up` too.",
)


@contextmanager
def _keys(root: Path | None) -> Iterator[KeyStore]:
    with open_queue(root or Settings().store, "shoal keys", create=True) as url:
        store = KeyStore.from_url(str(url))
        try:
            yield store
        finally:
            store.close()


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Who uses the key, for the audit log.")],
    scope: Annotated[
        Scope, typer.Option(metavar="read|submit|admin", help="read, submit (includes read) or admin (includes both).")
    ] = Scope.SUBMIT,
    rate: Annotated[
        float | None, typer.Option(help="Maximum requests per second; the service's limit by default.")
    ] = None,
    root: StoreRoot = None,
) -> None:
    """Create a key and print it. It is shown only once."""
    with _keys(root) as store:
        key, token = store.create(name, scope, rate=rate)
    typer.echo(token)
    err.print(
        f"Created key {key.id} with scope {key.scope}. It is shown only once: save it, and set SHOAL_API_KEY to it."
    )


@app.command("list")
def list_(as_json: AsJson = False, root: StoreRoot = None) -> None:
    """List all keys, including revoked ones. Secrets are never shown."""
    with _keys(root) as store:
        keys = store.list()
    if as_json:
        rows = [
            {
                "id": key.id,
                "name": key.name,
                "scope": key.scope,
                "created_at": key.created_at.isoformat(),
                "rate": key.rate,
                "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
            }
            for key in keys
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    table = columns_of("id", "name", "scope", "created", "requests/s", "revoked")
    for key in keys:
        revoked = f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else ""
        table.add_row(key.id, key.name, key.scope, f"{key.created_at:%Y-%m-%d %H:%M}", str(key.rate or ""), revoked)
    print_table(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key, from `shoal keys list`.")], root: StoreRoot = None
) -> None:
    """Revoke a key: the services refuse its next request."""
    with _keys(root) as store:
        key = store.revoke(key_id)
    err.print(f"Key {key.id} ({key.name}) is revoked.")
