"""The version, in one place."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("poise")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
