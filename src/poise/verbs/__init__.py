"""The command's verbs as functions, one file each, over one `Subject`: whatever can be asked of a network can be asked
of each kind.
"""

from poise.verbs.kinds import subject_of
from poise.verbs.subject import Subject

__all__ = ["Subject", "subject_of"]
