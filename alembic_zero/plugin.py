"""Entry point ``alembic.plugins``: what happens to Alembic wherever alembic_zero is installed.

``setup`` runs during ``import alembic``, in every program that imports it. So it only registers the
operations and their renderer; the commands wait until ``alembic.config`` is imported, which must not happen here.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from alembic.runtime.plugins import Plugin

_CONFIG_MODULE = "alembic.config"


def setup(plugin: Plugin) -> None:  # noqa: ARG001 - Alembic's signature
    """Register operations and their renderer; hang our commands on the ``alembic`` script, now or when it is there."""
    # Here and not above: that may be what imports Alembic, which then looks for this function. And
    # not "from ... import": the package may be half-way through its own import of Alembic.
    import alembic_zero.operations  # noqa: F401
    from alembic_zero.autogenerate import render

    render.register()
    config_module = sys.modules.get(_CONFIG_MODULE)
    if config_module is not None:
        _install_commands(config_module)
    elif not any(isinstance(finder, ConfigFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, ConfigFinder())


class ConfigFinder(MetaPathFinder):
    """Finds ``alembic.config`` as it would be found anyway, and adds to what its loader does.

    Leaves ``sys.meta_path`` when the module has been executed, not when it is found: to look for a
    module is not yet to import it.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of ``alembic.config`` with its loader wrapped; None for every other module."""
        if fullname != _CONFIG_MODULE:
            return None
        spec = self._find_elsewhere(fullname, path, target)
        if spec is not None and spec.loader is not None:
            self._wrap_loader(spec.loader)
        return spec

    def _find_elsewhere(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in sys.meta_path:
            if finder is not self:
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    return spec
        return None

    def _wrap_loader(self, loader: Loader) -> None:
        exec_module = loader.exec_module

        def exec_and_install(module: ModuleType) -> None:
            exec_module(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            _install_commands(module)

        # On the instance: the loader stays what it is for inspect, pkgutil and the like.
        loader.exec_module = exec_and_install  # type: ignore[method-assign]


def _install_commands(config_module: ModuleType) -> None:
    """Install our commands, unless *config_module* is still being executed."""
    command_line = getattr(config_module, "CommandLine", None)
    if command_line is not None:
        from alembic_zero import cli

        cli.install(command_line)
