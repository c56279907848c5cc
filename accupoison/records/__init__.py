"""What a run writes and reads back: files, checkpoints, metrics, the ledger of who was in the stream."""
