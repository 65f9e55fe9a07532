"""Networks: settings that build untrained modules, from pixels in [0, 1] to logits."""

from poise.models.dual_head import Confidence, DualHead, DualHeadModule, confidence_of
from poise.models.ensemble import (
    Collaboration,
    CollaborationModule,
    Ensemble,
    EnsembleModule,
    log_mean_probabilities,
    log_votes,
    mean_logits,
)
from poise.models.folding import Folded, foldable, surrogate
from poise.models.layers import Activation, Classifier, Shortcut, Standardise
from poise.models.mixture import Mixture, MixtureModule
from poise.models.network import CIFAR10_NORMALISATION, Collective, Network, Normalisation, Shape
from poise.models.preact_resnet import PreActResNet18, PreActResNetModule
from poise.models.resnet import ResNet18, ResNet20, ResNetModule
from poise.models.small_cnn import DigitsCNN, PlainModule, SlimCNN, SmallCNN
from poise.models.timm_network import Timm
from poise.models.vgg import VGG16, VGGModule
from poise.models.wide_resnet import WideResNet

__all__ = [
    "CIFAR10_NORMALISATION",
    "VGG16",
    "Activation",
    "Classifier",
    "Collaboration",
    "CollaborationModule",
    "Collective",
    "Confidence",
    "DigitsCNN",
    "DualHead",
    "DualHeadModule",
    "Ensemble",
    "EnsembleModule",
    "Folded",
    "Mixture",
    "MixtureModule",
    "Network",
    "Normalisation",
    "PlainModule",
    "PreActResNet18",
    "PreActResNetModule",
    "ResNet18",
    "ResNet20",
    "ResNetModule",
    "Shape",
    "Shortcut",
    "SlimCNN",
    "SmallCNN",
    "Standardise",
    "Timm",
    "VGGModule",
    "WideResNet",
    "confidence_of",
    "foldable",
    "log_mean_probabilities",
    "log_votes",
    "mean_logits",
    "surrogate",
]
