"""What goes wrong while a component is built is a mistake in the spec or in the component, and says which."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from noether.core.schemas.registry_base import _RegistryBase, component_of
from noether.errors import NoetherError, SpecError


@contextmanager
def construction_of(config: _RegistryBase) -> Iterator[None]:
    """Name the component that `config` is for in whatever its constructor raises.

    Raises:
        SpecError: The constructor raised something that is no error of Noether's own.
    """
    try:
        yield
    except NoetherError:
        raise
    except Exception as error:
        component = component_of(config)
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise SpecError(
            f"the {component.role} '{component.kind}' ({component.origin}) cannot be built: "
            f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})",
            hint="check its options with: noether plugins info " + component.kind,
        ) from error
