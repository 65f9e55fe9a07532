"""Floor 0: errors, settings, random draws, modes, batches, records, papers. Imports nothing of Poise above it."""
