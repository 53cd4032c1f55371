"""The command `noether`, one file a verb; imports nothing heavy before a verb needs it."""
