"""An objective of your own, in one file. On the command line: poise train at_digits --import own_objective.py
method.objective=MarginAT
"""

import poise
from poise.attacks.pgd import score_of
from poise.losses import margin
from poise.objectives import AdversarialObjective


@poise.configurable
class MarginAT(AdversarialObjective):
    """Adversarial training on a hinge of the margin, crafted by ascending that margin."""

    gap: float = 1.0

    def score(self, model, batch):
        return score_of("margin", model, batch.x, batch.y)

    def loss(self, model, examples, now):
        return {"robust": (margin(model(examples.x_adv), examples.y) + self.gap).relu()}


if __name__ == "__main__":
    import tempfile

    experiment = poise.override(poise.recipe("at_digits", True), ["method.objective=MarginAT", "method.gap=2"])
    print(poise.train(experiment, out=tempfile.mkdtemp() + "/run").facts("last")["monitors"])
