"""What is fast, beside what this machine's own matrix product reaches; run by ``make bench``."""
