"""The papers behind every method, objective, attack, data set and network; classes name theirs as `paper`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A short citation: `key` as printed in tables, e.g. "Madry et al. 2018"."""

    key: str
    title: str
    where: str

    def __str__(self) -> str:
        return self.key


GENERALIST = Paper("Wang & Wang 2023", "Generalist: Decoupling Natural and Robust Generalization", "CVPR 2023")
SQUEEZE_TRAINING = Paper("Li et al. 2023", "Squeeze Training for Adversarial Robustness", "ICLR 2023")
SYNERGY = Paper("Cui et al. 2022", "Synergy-of-Experts: Collaborate to Improve Adversarial Robustness", "NeurIPS 2022")

RANDAUGMENT = Paper(
    "Cubuk et al. 2020",
    "RandAugment: Practical Automated Data Augmentation with a Reduced Search Space",
    "NeurIPS 2020",
)
TORCHATTACKS = Paper("Kim 2020", "Torchattacks: A PyTorch Repository for Adversarial Attacks", "arXiv:2010.01950")
FOOLBOX = Paper(
    "Rauber et al. 2020",
    "Foolbox Native: Fast adversarial attacks to benchmark the robustness of machine learning models",
    "JOSS 2020",
)
ART = Paper("Nicolae et al. 2018", "Adversarial Robustness Toolbox v1.0.0", "arXiv:1807.01069")
ROBUSTBENCH = Paper("Croce et al. 2021", "RobustBench: a Standardized Adversarial Robustness Benchmark", "NeurIPS 2021")
MIXUP = Paper("Zhang et al. 2018", "mixup: Beyond Empirical Risk Minimization", "ICLR 2018")
PGD = Paper("Madry et al. 2018", "Towards Deep Learning Models Resistant to Adversarial Attacks", "ICLR 2018")
FGSM = Paper("Goodfellow et al. 2015", "Explaining and Harnessing Adversarial Examples", "ICLR 2015")
MIM = Paper("Dong et al. 2018", "Boosting Adversarial Attacks with Momentum", "CVPR 2018")
CW = Paper("Carlini & Wagner 2017", "Towards Evaluating the Robustness of Neural Networks", "IEEE S&P 2017")
AUTOATTACK = Paper(
    "Croce & Hein 2020a",
    "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks",
    "ICML 2020",
)
FAB = Paper(
    "Croce & Hein 2020b", "Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack", "ICML 2020"
)
L1_ATTACKS = Paper(
    "Croce & Hein 2021", "Mind the Box: L1-APGD for Sparse Adversarial Attacks on Image Classifiers", "ICML 2021"
)
MALT = Paper("Melamed et al. 2024", "MALT Powers Up Adversarial Attacks", "NeurIPS 2024")
PMA = Paper(
    "Xie et al. 2024",
    "Towards Million-Scale Adversarial Robustness Evaluation With Stronger Individual Attacks",
    "2024",
)
FREE_AT = Paper("Shafahi et al. 2019", "Adversarial Training for Free!", "NeurIPS 2019")
FGSM_PGI = Paper(
    "Jia et al. 2022", "Prior-Guided Adversarial Initialization for Fast Adversarial Training", "ECCV 2022"
)
IDBH = Paper("Li & Spratling 2023", "Data Augmentation Alone Can Improve Adversarial Training", "ICLR 2023")
SQUARE = Paper(
    "Andriushchenko et al. 2020",
    "Square Attack: a Query-efficient Black-box Adversarial Attack via Random Search",
    "ECCV 2020",
)
SKIP_GRADIENT = Paper(
    "Wu et al. 2020b",
    "Skip Connections Matter: On the Transferability of Adversarial Examples Generated with ResNets",
    "ICLR 2020",
)
DIVERSE_INPUTS = Paper(
    "Xie et al. 2019", "Improving Transferability of Adversarial Examples with Input Diversity", "CVPR 2019"
)

TRADES = Paper("Zhang et al. 2019", "Theoretically Principled Trade-off between Robustness and Accuracy", "ICML 2019")
MART = Paper(
    "Wang et al. 2020", "Improving Adversarial Robustness Requires Revisiting Misclassified Examples", "ICLR 2020"
)
FAT = Paper("Zhang et al. 2020", "Attacks Which Do Not Kill Training Make Adversarial Learning Stronger", "ICML 2020")
IAT = Paper("Lamb et al. 2019", "Interpolated Adversarial Training", "AISec 2019")
RST_CARMON = Paper("Carmon et al. 2019", "Unlabeled Data Improves Adversarial Robustness", "NeurIPS 2019")
RST_RAGHUNATHAN = Paper(
    "Raghunathan et al. 2020", "Understanding and Mitigating the Tradeoff between Robustness and Accuracy", "ICML 2020"
)
GAIRAT = Paper("Zhang et al. 2021", "Geometry-aware Instance-reweighted Adversarial Training", "ICLR 2021")
BAT = Paper("Kim et al. 2023", "Bridged Adversarial Training", "Neural Networks 2023")
AWP = Paper("Wu et al. 2020", "Adversarial Weight Perturbation Helps Robust Generalization", "NeurIPS 2020")
RWP = Paper("Yu et al. 2022", "Robust Weight Perturbation for Adversarial Training", "IJCAI 2022")
N_FGSM = Paper(
    "de Jorge et al. 2022", "Make Some Noise: Reliable and Efficient Single-Step Adversarial Training", "NeurIPS 2022"
)
REBAT = Paper(
    "Wang et al. 2023",
    "Balance, Imbalance, and Rebalance: Understanding Robust Overfitting from a Minimax Game Perspective",
    "NeurIPS 2023",
)
ADR = Paper("Wu et al. 2024", "Annealing Self-Distillation Rectification Improves Adversarial Training", "ICLR 2024")
RPAT = Paper(
    "Wang & Liu 2025",
    "Failure Cases Are Better Learned But Boundary Says Sorry: Facilitating Smooth Perception Change for"
    " Accuracy-Robustness Trade-Off in Adversarial Training",
    "ICCV 2025",
)

ADP = Paper("Pang et al. 2019", "Improving Adversarial Robustness via Promoting Ensemble Diversity", "ICML 2019")
GAL = Paper(
    "Kariyappa & Qureshi 2019",
    "Improving Adversarial Robustness of Ensembles with Diversity Training",
    "arXiv:1901.09981",
)
DVERGE = Paper(
    "Yang et al. 2020",
    "DVERGE: Diversifying Vulnerabilities for Enhanced Robust Generation of Ensembles",
    "NeurIPS 2020",
)
MORE = Paper("Cheng et al. 2022", "Mixture of Robust Experts (MoRE)", "arXiv:2104.10586")

RESNET = Paper("He et al. 2016a", "Deep Residual Learning for Image Recognition", "CVPR 2016")
PREACT_RESNET = Paper("He et al. 2016b", "Identity Mappings in Deep Residual Networks", "ECCV 2016")
WIDE_RESNET = Paper("Zagoruyko & Komodakis 2016", "Wide Residual Networks", "BMVC 2016")
VGG = Paper(
    "Simonyan & Zisserman 2015", "Very Deep Convolutional Networks for Large-Scale Image Recognition", "ICLR 2015"
)

DIGITS = Paper("Alpaydin & Kaynak 1998", "Optical Recognition of Handwritten Digits", "UCI")
MNIST = Paper("LeCun et al. 1998", "Gradient-based Learning Applied to Document Recognition", "Proc. IEEE")
SVHN = Paper(
    "Netzer et al. 2011", "Reading Digits in Natural Images with Unsupervised Feature Learning", "NIPS workshop 2011"
)
CIFAR = Paper("Krizhevsky 2009", "Learning Multiple Layers of Features from Tiny Images", "technical report")
TINY_IMAGENET = Paper("Le & Yang 2015", "Tiny ImageNet Visual Recognition Challenge", "CS 231N, Stanford")
CORRUPTIONS = Paper(
    "Hendrycks & Dietterich 2019",
    "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
    "ICLR 2019",
)
EMA = Paper("Polyak & Juditsky 1992", "Acceleration of Stochastic Approximation by Averaging", "SIAM J. Control Optim.")
SWA = Paper("Izmailov et al. 2018", "Averaging Weights Leads to Wider Optima and Better Generalization", "UAI 2018")
