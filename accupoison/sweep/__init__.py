"""Many runs from one file: burn-ins and streams, attacks and defences, each combination once."""
