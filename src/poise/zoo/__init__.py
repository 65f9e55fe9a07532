"""Networks that come with Poise: rounded first, evaluated as they are shipped. `poise list zoo`;
`poise.load("zoo:NAME")`.
"""

from poise.zoo.shelf import PREFIX, ZooNetwork, zoo, zoo_network

__all__ = ["PREFIX", "ZooNetwork", "zoo", "zoo_network"]
