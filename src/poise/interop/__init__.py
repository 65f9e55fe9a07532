"""Other libraries' names over our parts: a script written for them runs with one import changed."""
