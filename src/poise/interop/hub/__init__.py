"""The Hugging Face hub: networks fetched from it and pushed to it, by its own library."""
