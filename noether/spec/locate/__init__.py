"""Where in a TOML text each key, value and header stands; `tomllib` does not say.

Apart from the parser, and after it: it has accepted the text, so that nothing here has to tell valid from invalid.
"""

from noether.spec.locate.locations import Locations
from noether.spec.locate.spans import Located, Span, TomlPath

__all__ = ["Located", "Locations", "Span", "TomlPath"]
