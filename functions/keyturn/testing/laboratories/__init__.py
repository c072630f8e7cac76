"""The targets and strategies that the crash sweep covers: one file per engine, found by its place.

A file declares `LABORATORIES`: classes with the methods of `keyturn.testing.bench.Laboratory`.
"""

from __future__ import annotations

import importlib
import pkgutil

from keyturn.testing.bench import Laboratory


def _found() -> tuple[type[Laboratory], ...]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return tuple(laboratory for module in modules for laboratory in module.LABORATORIES)


LABORATORIES = _found()
"""All there are."""
