"""The `gaugeway` command. Exit codes: 0 done, 1 failed, 2 wrong usage."""

import sys

import typer
from rich.markup import escape

from serving.commands import (
    applying,
    backtest,
    capture,
    demo,
    doctor,
    life,
    monitor,
    registry,
    simulate,
    status,
    traffic,
)
from serving.commands.console import err
from serving.errors import GaugewayError

app = typer.Typer(help="A gateway that gauges: serve versioned ONNX models, and measure whether they are still right.",
                  no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
                  context_settings={"help_option_names": ["-h", "--help"]})  # fmt: skip
for group in (life, status, monitor, registry, applying, traffic, backtest, capture, doctor, simulate, demo):
    app.add_typer(group.app)


def main() -> None:
    """Every expected failure is one sentence on standard error."""
    try:
        app()
    except GaugewayError as error:
        err.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
