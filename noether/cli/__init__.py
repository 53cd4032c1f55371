"""The command `noether`; nothing heavy is imported before a verb needs it."""
