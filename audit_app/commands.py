"""``flask audit``: the group of the commands, which are imported when one is asked for.

A web process never asks for one, and would spend a sixth of the package's import on them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

import click
from flask import Flask
from flask.cli import AppGroup

BIND: Final = "audit_app.bind"
"""Where the chosen bind stands in click's ``Context.meta``."""

_MODULES = ("audit_app.cli", "audit_app.cli_retention")


class _Commands(AppGroup):
    """A group that knows its commands once their modules were imported, which add them to it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._import()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        self._import()
        return super().get_command(ctx, cmd_name)

    @staticmethod
    def _import() -> None:
        for module in _MODULES:
            import_module(module)


def _choose_bind(context: click.Context, _: click.Parameter, bind: str | None) -> None:
    context.meta[BIND] = bind


audit_cli = _Commands(
    "audit",
    help="The audit trail: its installation, its roles, its state.",
    params=[
        click.Option(
            ["--bind"],
            callback=_choose_bind,
            expose_value=False,
            help="The trail in this database of SQLALCHEMY_BINDS.",
        )
    ],
)


def register(app: Flask) -> None:
    """Give an application all of ``flask audit``."""
    app.cli.add_command(audit_cli)
