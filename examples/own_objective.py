"""An objective of your own, in one file. On the command line: poise train at_digits --import own_objective.py method.objective=MarginAT"""

import poise
from poise.attacks import Ascent
from poise.attacks.pgd import score_of
from poise.core.modes import CraftMode
from poise.core.papers import Paper
from poise.losses import margin
from poise.objectives import Adversarial, Objective


@poise.settings
class MarginAT(Objective[Adversarial]):
    """Adversarial training on a hinge of the margin, crafted by ascending that margin."""

    paper = Paper("ours", "An example", "here")
    gap: float = 1.0
    inner: Ascent = Ascent()
    craft_mode: CraftMode = "evaluating"

    def craft(self, model, batch, now):
        score = score_of("margin", model, batch.x, batch.y)
        return Adversarial(batch.y, batch.x, self.inner.at(now).maximise(score, batch.x, now.draw("craft", batch)))

    def loss(self, model, examples, now):
        return {"robust": (margin(model(examples.x_adv), examples.y) + self.gap).relu()}


if __name__ == "__main__":
    import tempfile

    experiment = poise.override(poise.recipe("at_digits", True), ["method.objective=MarginAT", "method.gap=2"])
    print(poise.train(experiment, out=tempfile.mkdtemp() + "/run").facts("last")["monitors"])
