"""Pictures of papers' kinds, from records alone: series of numbers, drawn by matplotlib."""
