"""AutoAttack (Croce & Hein 2020a): its four attacks, the lanes in which they search, and the run that goes through them
in turn.
"""

from poise.attacks.autoattack.autoattack import PUBLISHED, AutoAttack, SearchPrecision, Version, search_precision
from poise.attacks.autoattack.job import MISCLASSIFIED, ROBUST, Result, Status

__all__ = [
    "MISCLASSIFIED",
    "PUBLISHED",
    "ROBUST",
    "AutoAttack",
    "Result",
    "SearchPrecision",
    "Status",
    "Version",
    "search_precision",
]
