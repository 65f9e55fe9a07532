"""Train, attack, report: the library in ten lines."""

import tempfile

import poise

folder = tempfile.mkdtemp()
run = poise.train(poise.recipe("generalist_digits", True), out=f"{folder}/first")  # True: the quick variant
print(poise.evaluate(run).path)
page = poise.report([run], f"{folder}/report.html")

model = poise.load(run.path)  # images in [0, 1] -> logits
test = poise.data.Digits().load().test.first(100)
x, y = test.pixels(), test.labels
x_adv = poise.attacks.PGD(threat=poise.threats.Linf(epsilon=0.2), step_size=0.05)(model, x, y)
print("natural", (model(x).argmax(1) == y).float().mean().item(), "robust", (model(x_adv).argmax(1) == y).float().mean().item(), page)
