"""Settings of every property test."""

from hypothesis import settings

# A deadline measures how busy the machine is, and the first example pays for whatever is imported or allocated first.
settings.register_profile("noether", deadline=None)
settings.load_profile("noether")
