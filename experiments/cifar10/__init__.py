"""One question on CIFAR-10, answered as README.md lays down beforehand; `python -m experiments.cifar10 status`."""
