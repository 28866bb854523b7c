"""ResNet-20-style networks: nine residual blocks of two 3x3 convolutions in three stages."""

from __future__ import annotations

from torch import Tensor, nn


class Block(nn.Module):
    """The residual block relu(s + norm(conv(relu(norm(conv(x)))))).

    The shortcut s is x; where the shape changes, it is x after a 1x1 convolution with batch norm.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The output maps (batch, outputs, H / stride, W / stride), rounded up, of maps (batch, inputs, H, W)."""
        inner = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, three stages of blocks, a mean over the map and one linear layer: images in [0, 1] -> logits.

    With three blocks per stage it has the 20 layers of He et al., CVPR 2016, section 4.2; shortcuts that change the
    shape are 1x1 convolutions. The inputs of all layers are >= 0.

    Args:
        input_shape: (channels, height, width) of an image.
        classes: number of classes, and so of logits.
        width: channels of the first stage; each further stage doubles them and halves the map.
        blocks: number of blocks in each stage.
        shrink: halve the map twice in the stem, by a stride and a pool, so that an image takes few crossbar reads.
    """

    def __init__(
        self, input_shape: tuple[int, int, int], classes: int, width: int = 16, blocks: int = 3, shrink: bool = False
    ) -> None:
        super().__init__()
        self.input_shape, self.classes = input_shape, classes
        kernel, stride = (5, 2) if shrink else (3, 1)
        self.stem = nn.Sequential(
            nn.Conv2d(input_shape[0], width, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2) if shrink else nn.Identity(),
        )
        stages, channels = [], width
        for k in range(3):
            for b in range(blocks):
                outputs = width * 2**k
                stages.append(Block(channels, outputs, 2 if k and b == 0 else 1))
                channels = outputs
        self.blocks = nn.Sequential(*stages)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """The logits (batch, classes) of images (batch, *input_shape) in [0, 1]."""
        return self.classifier(self.blocks(self.stem(images)).mean((2, 3)))
