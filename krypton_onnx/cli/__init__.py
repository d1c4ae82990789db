"""The command line. Everything heavy is imported by the command that needs it, so that `--help` is immediate."""

from typing import Any

import click

from krypton_onnx.cli.bench import bench
from krypton_onnx.cli.cache import cache
from krypton_onnx.cli.compile import compile_model
from krypton_onnx.cli.demo import demo
from krypton_onnx.cli.explain import explain
from krypton_onnx.cli.export_triton import export_repository
from krypton_onnx.cli.export_web import export_page
from krypton_onnx.cli.inspect import inspect
from krypton_onnx.cli.serve import serve
from krypton_onnx.cli.tune import tune
from krypton_onnx.cli.verify import verify
from krypton_onnx.errors import KryptonError

INVALID = 2
INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended


class _Program(click.Group):
    """Commands in the order in which one needs them, and errors as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KryptonError as error:
            _complain(str(error))
            return ctx.exit(INVALID)
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else "krypton-onnx"
            _complain(f"{error.format_message()} See '{where} --help'.")
            return ctx.exit(INVALID)
        except MemoryError:
            _complain("There is not enough memory for this model; close other programs or use a smaller --input-size.")
            return ctx.exit(INVALID)
        except KeyboardInterrupt:
            return ctx.exit(INTERRUPTED)


def _complain(message: str) -> None:
    click.echo(f"krypton-onnx: {' '.join(message.split())}", err=True)


_START = """\b
Start here:
  krypton-onnx demo                        a bundled model, in under a minute
  krypton-onnx explain model.onnx cat.jpg  a heatmap of your own
  krypton-onnx inspect model.onnx          how much faster your model can get
"""


@click.group(cls=_Program, epilog=_START, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="krypton-onnx", prog_name="krypton-onnx")
def main() -> None:
    """Exact occlusion heatmaps for exported ONNX CNNs, several times faster than full inference.

    A patch slides over the picture, and at every position the class's score is computed anew: where it drops, the
    model looked. krypton-onnx rewrites the model so that only what the patch can reach is recomputed.
    """


_EXPLAINING = (explain, compile_model, inspect, verify, bench, tune)
_ELSEWHERE = (export_page, export_repository, serve)

for _command in (*_EXPLAINING, *_ELSEWHERE, demo, cache):
    main.add_command(_command)
