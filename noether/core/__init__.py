"""The parts that a trainer is made of; import from the module that defines a name."""
