"""The command `noether`, its verbs by topic; imports nothing heavy before a verb needs it."""
