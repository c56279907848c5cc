"""What is measured of a model and of a run: accuracy, membership, privacy spent, the machine's speed."""
