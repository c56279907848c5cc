"""The poisoned stream: batches, attack, defence and update, step by step."""
