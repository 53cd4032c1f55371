"""Parts of a trainer: callbacks, models, initializers, trackers; and documented import paths of lower packages."""
