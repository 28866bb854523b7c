"""Image sets and the small networks that the studies run on crossbars."""

from geniex.networks.checkpoint import NETWORKS, load_network, network_info, save_network
from geniex.networks.fashion import FashionCNN
from geniex.networks.images import IMAGE_SETS, ImageSet, find_images, load_images

__all__ = [
    "IMAGE_SETS",
    "NETWORKS",
    "FashionCNN",
    "ImageSet",
    "find_images",
    "load_images",
    "load_network",
    "network_info",
    "save_network",
]
