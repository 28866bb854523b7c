"""Image sets, and the small networks that the studies run on crossbars."""

from geniex.networks.checkpoint import (
    load_network,
    network_info,
    network_masks,
    network_name,
    save_network,
    shipped_networks,
)
from geniex.networks.constraint import Constraint
from geniex.networks.fashion import FashionCNN
from geniex.networks.images import IMAGE_SETS, ImageSet, find_images, load_images
from geniex.networks.resnet import ResNet
from geniex.networks.vgg import VGG
from geniex.networks.zoo import NETWORKS

__all__ = [
    "IMAGE_SETS",
    "NETWORKS",
    "VGG",
    "Constraint",
    "FashionCNN",
    "ImageSet",
    "ResNet",
    "find_images",
    "load_images",
    "load_network",
    "network_info",
    "network_masks",
    "network_name",
    "save_network",
    "shipped_networks",
]
