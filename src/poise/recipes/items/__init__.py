"""The papers' tables and figures as data: what `poise reproduce` makes and `poise list papers` lists."""

from poise.recipes.items import generalist, squeeze_training, synergy
from poise.recipes.items.item import Item, Line, Picture, item, items

__all__ = ["Item", "Line", "Picture", "generalist", "item", "items", "squeeze_training", "synergy"]
