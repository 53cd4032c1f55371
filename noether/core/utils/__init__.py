"""Ground: small facts that every layer may use."""
