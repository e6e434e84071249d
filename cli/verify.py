"""`inrwsi verify`: whether a .cinr file is whole, byte for byte. Imports no torch."""

from __future__ import annotations

import click

EXIT_DAMAGED = 3


@click.command(
    epilog="""\b
Example:
  inrwsi verify slide.cinr && echo whole"""
)
@click.argument("file")
def verify(file: str) -> None:
    """Read all of FILE, a .cinr file or its address, and check every byte of it against a checksum.

    Lists what is damaged. Exit code 0: whole; 3: damaged.
    """
    from inrwsi.formats.container import Container

    with Container.open(file) as container:
        damage = container.verify()
        sections, chunks = len(container.sections()), container.header.chunk_count
        size_bytes = container.file_bytes
    if not damage:
        click.echo(f"ok: {sections} sections, {chunks:,} chunks, {size_bytes:,} bytes")
        return
    for error in damage:
        click.echo(str(error))
    click.echo(f"inrwsi: {file}: {len(damage)} damaged {'part' if len(damage) == 1 else 'parts'}", err=True)
    raise click.exceptions.Exit(EXIT_DAMAGED)
