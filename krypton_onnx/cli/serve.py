"""`krypton-onnx serve`."""

import re
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from krypton_onnx.cli.options import device_option, json_option, memory, model_options, numbers, picture_options, size
from krypton_onnx.cli.sources import compiled, read_labels, say_json, with_preprocess
from krypton_onnx.errors import KryptonError

if TYPE_CHECKING:
    from krypton_onnx.artifact import Artifact
    from krypton_onnx.runtime.session import Session

Function = TypeVar("Function", bound=Callable[..., Any])

_PATCH = (16, 16)

_NAME = re.compile("[A-Za-z0-9_][A-Za-z0-9_.-]*")

_EXAMPLES = """\b
Examples:
  krypton-onnx serve resnet50.krypton
  krypton-onnx serve chest=chest.krypton dermoscopy=skin.onnx --port 9000
  krypton-onnx serve resnet50.onnx --preprocess preprocessor_config.json --host 0.0.0.0 --token-file token
"""


def _seconds(text: str) -> float:
    """``0.5`` or ``300``."""
    found = numbers(text)
    if len(found) != 1 or not 0 < found[0] <= 1e6:
        raise click.BadParameter(f"'{text}' is no time: give seconds, such as 300.")
    return found[0]


def _named(text: str) -> tuple[str, Path]:
    """``model.onnx``, or ``name=model.onnx``."""
    name, equals, path = text.partition("=")
    if not equals:
        name, path = Path(text).stem, text
    if not _NAME.fullmatch(name) or not path:
        raise click.BadParameter(
            f"'{text}' names no model: give a file or folder, or NAME=FILE with letters, digits, '_', '-' and '.' in "
            "its name."
        )
    return name, Path(path)


def _from_the_controller(function: Function) -> Function:
    """What KServe's controller appends to the arguments of an explainer's container."""
    named = click.option("--model_name", hidden=True, help="The InferenceService's name, which requests use.")
    needless = (click.option(f"--{name}", hidden=True, expose_value=False) for name in ("predictor_host", "workers"))
    for option in (named, *needless):
        function = option(function)
    return function


def _renamed(models: tuple[tuple[str, Path], ...], name: str | None) -> tuple[tuple[str, Path], ...]:
    if name is None:
        return models
    if not _NAME.fullmatch(name):
        raise KryptonError(f"--model_name '{name}' is no name: use letters, digits, '_', '-' and '.'.")
    if len(models) > 1:
        raise KryptonError(f"--model_name {name} is for one model, and there are {len(models)}; give each NAME=MODEL.")
    return ((name, models[0][1]),)


@click.command(short_help="Answer for heatmaps over HTTP, as KServe does.", epilog=_EXAMPLES)
@click.argument("models", metavar="[NAME=]MODEL|DIR...", type=_named, nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to listen.")
@click.option(
    "--port",
    "--http_port",  # as KServe's controller calls it
    "port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="0 for any that is free.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Requests must carry the token in FILE: 'Authorization: Bearer TOKEN'.",
)
@click.option(
    "--running", type=click.IntRange(1), default=2, show_default=True, metavar="N", help="Requests computed at a time."
)
@click.option(
    "--waiting",
    type=click.IntRange(0),
    default=32,
    show_default=True,
    metavar="N",
    help="Requests that may wait for that; more are answered with 429.",
)
@click.option(
    "--max-size",
    type=memory,
    default="32MB",
    show_default=True,
    metavar="SIZE",
    help="Most of a request, and of an answer.",
)
@click.option(
    "--timeout",
    type=_seconds,
    default="300",
    show_default=True,
    metavar="SECONDS",
    help="From a request's arrival to its answer.",
)
@click.option(
    "--grace",
    type=click.IntRange(0, 3600),
    default=20,
    show_default=True,
    metavar="SECONDS",
    help="For open requests, when the service is told to end.",
)
@click.option(
    "--base-cache",
    type=memory,
    default="1GB",
    show_default=True,
    metavar="SIZE",
    help="Memory for base runs of the pictures asked about last: a second question then costs only its queries.",
)
@click.option(
    "--patch",
    type=size,
    metavar="N|HxW",
    help="That a MODEL is compiled for, and the default of requests. [default: 16]",
)
@picture_options
@model_options
@device_option
@click.option("--memory-budget", type=memory, metavar="SIZE", help="Most memory for the queries of a request.")
@json_option
@_from_the_controller
def serve(
    models: tuple[tuple[str, Path], ...], host: str, port: int, model_name: str | None, as_json: bool, **options: Any
) -> None:
    """Answer for heatmaps of each MODEL over HTTP, in KServe's protocols V2 (infer) and V1 (:explain, :predict).

    A MODEL is compiled first, which is kept for the next start (see `krypton-onnx cache`); a folder that `compile`
    wrote is served as it is. docs/serving.md says what requests look like. Ctrl-C, or a signal to terminate, ends it.
    """
    from krypton_onnx.service.address import bound_to, url_of

    models = _renamed(models, model_name)
    names = [name for name, _ in models]
    for name in names:
        if names.count(name) > 1:
            raise KryptonError(f"Two models are called '{name}': give one another name, NAME=MODEL.")
    token = _token(options["token_file"])
    # Also while models load, so that what is there for now alone is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with ExitStack() as held:
        bound = held.enter_context(bound_to(host, port))

        try:
            from krypton_onnx.service.explainer import warm_up
            from krypton_onnx.service.gate import Limits
            from krypton_onnx.service.logs import log_as_json
            from krypton_onnx.service.server import serve as serve_sessions
        except ModuleNotFoundError as error:
            raise KryptonError(
                f"'krypton-onnx serve' needs KServe's SDK, which is not installed whole ({error.name} is missing): pip "
                "install 'krypton-onnx[serve]', with a Python below 3.14, which KServe does not support yet."
            ) from error
        log_as_json()
        sessions = {name: _session(held, path, options) for name, path in models}
        for session in sessions.values():
            warm_up(session)
        bound.listen()
        if as_json:
            say_json({"url": url_of(bound), "models": names})
        else:
            click.echo(f"Serving {', '.join(names)} on {url_of(bound)}")
        limits = Limits(options["running"], options["waiting"], options["max_size"], options["timeout"], token)
        serve_sessions(sessions, bound, limits, options["base_cache"], options["grace"])


def _token(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise KryptonError(f"The token file {file} cannot be read ({error}): give a text file.") from error
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise KryptonError(f"The token file {file} holds no token: write one line of ASCII without spaces into it.")
    return token


def _session(held: ExitStack, path: Path, options: dict[str, Any]) -> "Session":
    """A model, loaded; what it needs stays until the stack ends."""
    from krypton_onnx.runtime.session import Session

    if path.is_dir() and options["patch"] is not None:
        raise KryptonError(f"{path} is compiled already, for a patch of its own; omit --patch.")
    sizes = {key: options[key] for key in ("input_size", "image_input", "channels_last", "providers")}
    artifact = held.enter_context(compiled(path, patch=options["patch"] or _PATCH, **sizes, cache=True))
    try:
        artifact = _described(artifact, options)
    except KryptonError as error:
        raise KryptonError(f"{path}: {error}") from error
    return Session(artifact, options["providers"], memory_budget=options["memory_budget"])


def _described(artifact: "Artifact", options: dict[str, Any]) -> "Artifact":
    """With the preprocessing and the labels that the options name."""
    from krypton_onnx.labels import check_labels

    if options["preprocess"] is not None:
        artifact, _ = with_preprocess(artifact, options["preprocess"], {})
    if options["labels"] is not None:
        labels = read_labels(options["labels"])
        check_labels(labels, artifact.plan)
        artifact = replace(artifact, plan=replace(artifact.plan, labels=labels))
    return artifact
