"""The examples of the API's documentation, as printed; only imports and omissions are added."""
