"""Networks by name; every one takes images in [0, 1] and normalises them itself."""
