"""Train, attack, report: the library in ten lines."""

import poise

# True: the quick variant; once finished it is left as it is
run = poise.train(poise.recipe("generalist_digits", True), out="runs/first")
print(poise.evaluate(run).path)
page = poise.report([run], "runs/report.html")

model = poise.load(run.path)  # images in [0, 1] -> logits
test = poise.data.Digits().load().test.first(100)
x, y = test.pixels(), test.labels
x_adv = poise.attacks.PGD(threat=poise.threats.Linf(epsilon=0.2), step_size=0.05)(model, x, y)
print(
    "natural",
    (model(x).argmax(1) == y).float().mean().item(),
    "robust",
    (model(x_adv).argmax(1) == y).float().mean().item(),
    page.path,
)
