"""`poise reproduce`: every table and figure of the papers from its item: runs, evaluations, then tables and
pictures.
"""
