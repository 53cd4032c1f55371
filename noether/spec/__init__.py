"""The spec of a run: one TOML document, read with limits, validated strictly, resolved to every default."""
