"""Settings: from layers of text to frozen, checked dataclasses."""
