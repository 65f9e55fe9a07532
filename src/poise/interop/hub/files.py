"""Names of the files of a published network."""

WEIGHTS, CONFIG, CARD, RECORD, VERDICT = "model.safetensors", "config.json", "README.md", "record.json", "sanity.json"
INFO = "model_info"
"""The folder of RobustBench's description, below which it lies as in RobustBench's own repository."""
