"""Floor 1: data sets, their readers and downloads, augmentation, and the streams that learners are fed from."""

from poise.data.augment import Augmentation, CropFlip, CropShift, Flip, RandomErasing, RandomResizedCrop, Several, Shift
from poise.data.cifar import CIFAR10, CIFAR100
from poise.data.colour import IDBH, ColourJitter, ColourShape, RandAugment
from poise.data.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, SEVERITIES, corrupted
from poise.data.dataset import Data, DataSource, Split, cache_directory, data_directory, held_out
from poise.data.digits import Digits
from poise.data.extra import Extra, FolderPool, NpzPool, Pool, PseudoLabelled500K
from poise.data.folder import Folder, Npz
from poise.data.generated import Generated
from poise.data.hugging_face import HuggingFace
from poise.data.mixing import Mixing
from poise.data.mnist import MNIST
from poise.data.shards import Shards
from poise.data.stream import Feed, Stream, open_pools
from poise.data.svhn import SVHN
from poise.data.table import Table
from poise.data.tiny_imagenet import TinyImageNet

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "CORRUPTIONS",
    "EXTRA_CORRUPTIONS",
    "IDBH",
    "MNIST",
    "SEVERITIES",
    "SVHN",
    "Augmentation",
    "ColourJitter",
    "ColourShape",
    "CropFlip",
    "CropShift",
    "Data",
    "DataSource",
    "Digits",
    "Extra",
    "Feed",
    "Flip",
    "Folder",
    "FolderPool",
    "Generated",
    "HuggingFace",
    "Mixing",
    "Npz",
    "NpzPool",
    "Pool",
    "PseudoLabelled500K",
    "RandAugment",
    "RandomErasing",
    "RandomResizedCrop",
    "Several",
    "Shards",
    "Shift",
    "Split",
    "Stream",
    "Table",
    "TinyImageNet",
    "cache_directory",
    "corrupted",
    "data_directory",
    "held_out",
    "open_pools",
]
