"""`krypton-onnx cache`."""

import click

from krypton_onnx.cli.options import json_option
from krypton_onnx.cli.sources import bytes_text, say_json

_EXAMPLES = """\b
Examples:
  krypton-onnx cache
  krypton-onnx cache --clear
"""


@click.command(short_help="Show or clear what `explain` has compiled.", epilog=_EXAMPLES)
@click.option("--clear", is_flag=True, help="Remove all but what is in use just now.")
@json_option
def cache(clear: bool, as_json: bool) -> None:
    """Show where the models lie that `explain` has compiled, and how much room they take; or remove them.

    The environment variable KRYPTON_ONNX_CACHE names another folder, KRYPTON_ONNX_CACHE_GB how many gigabytes it may
    take (5 unless told): what was not used for the longest time goes first.
    """
    from krypton_onnx import cache

    limit = cache.cache_limit()
    if clear:
        cache.clear()
    held, folder = cache.entries(), cache.cache_folder()
    size = sum(entry.size for entry in held)
    if as_json:
        say_json({"folder": str(folder), "models": len(held), "bytes": size, "limit": limit})
    else:
        click.echo(f"{folder}: {len(held)} compiled models, {bytes_text(size)} of {bytes_text(limit)}")
