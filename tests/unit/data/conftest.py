"""Property tests of the data layer have no deadline: torch's first call of a kind takes half a second."""

from hypothesis import settings

settings.register_profile("data", deadline=None)
settings.load_profile("data")
