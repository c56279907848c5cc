"""The membership inference challenge of 2022."""
