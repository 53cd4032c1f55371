"""The examples that the documentation of the API prints, as printed: only imports and what they leave open is added."""
