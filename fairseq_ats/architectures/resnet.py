"""A ResNet for small images, with torchvision's parameter names, registered with fairseq as ``--arch resnet18``."""

# No "from __future__ import annotations" here: fairseq makes options from the field types and needs them as types
# (fairseq/dataclass/utils.py:39).

from dataclasses import dataclass, field
from typing import Any, ClassVar, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor, nn

NORMS = ("batch", "none")

# The channels of each stage relative to --width, and the stride of its first block.
STAGES = ((1, 1), (2, 2), (4, 2), (8, 2))


@dataclass
class ResNetConfig(FairseqDataclass):
    """The options of ``--arch resnet10``, ``resnet18`` and ``resnet34``."""

    width: int = field(
        default=64,
        metadata={"help": "channels of the first stage; the others have 2, 4 and 8 times as many; default: 64"}
        | {"example": "--width 16"},
    )
    norm: ChoiceEnum(list(NORMS)) = field(  # type: ignore[valid-type]  # fairseq makes choices from the field type
        default="batch",
        metadata={"help": "norm after each convolution: batch norm (batch), or biases in its place (none)"}
        | {"example": "--norm none"},
    )
    dropout: float = field(
        default=0.0,
        metadata={"help": "probability that a hidden channel of a block is zero, drawn for each image; default: 0"}
        | {"example": "--dropout 0.5"},
    )


class BasicBlock(nn.Module):
    """relu(x + conv2(relu(conv1(x)))), with a norm after each convolution (He et al., CVPR 2016)."""

    def __init__(self, into: int, out: int, stride: int, cfg: ResNetConfig) -> None:
        super().__init__()
        self.conv1, self.bn1 = _convolution(into, out, 3, stride, cfg)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout2d(cfg.dropout)
        self.conv2, self.bn2 = _convolution(out, out, 3, 1, cfg)
        # The 1 × 1 convolution sees every second pixel, and is not strided: with fewer than 8 channels oneDNN writes
        # outside its memory in the backward pass of a strided one (torch 2.13, AVX2, channels-last).
        self.stride = stride
        self.downsample: Optional[nn.Sequential] = None
        if stride != 1 or into != out:
            self.downsample = nn.Sequential(*_convolution(into, out, 1, 1, cfg))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(self.relu(self.bn1(self.conv1(x))))
        shortcut = x if self.downsample is None else self.downsample(x[..., :: self.stride, :: self.stride])
        return self.relu(self.bn2(self.conv2(hidden)) + shortcut)


class ResNet(BaseFairseqModel):
    """The variant for CIFAR: a first convolution of 3 × 3 with stride 1, and no pooling after it.

    At full width, state dict and function are those of ``torchvision.models.resnet18`` with that convolution and
    without its pooling.

    Args:
        shape: height, width and channels of an image.
    """

    blocks: ClassVar[tuple[int, ...]]  # in each stage

    def __init__(self, cfg: ResNetConfig, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.conv1, self.bn1 = _convolution(shape[-1], cfg.width, 3, 1, cfg)
        self.relu = nn.ReLU(inplace=True)
        into = cfg.width
        for number, ((factor, stride), count) in enumerate(zip(STAGES, self.blocks, strict=True), start=1):
            out = factor * cfg.width
            stage = [BasicBlock(into, out, stride, cfg), *(BasicBlock(out, out, 1, cfg) for _ in range(count - 1))]
            self.add_module(f"layer{number}", nn.Sequential(*stage))
            into = out
        self.fc = nn.Linear(into, classes)
        self._initialise_()

    @classmethod
    def build_model(cls, cfg: ResNetConfig, task: Any) -> "ResNet":
        """Build the model for the images of ``task``."""
        return cls(cfg, task.data.shape, len(task.data.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (batch, classes) of images (batch, channels, height, width)."""
        x = self.relu(self.bn1(self.conv1(images)))
        for number in range(1, len(STAGES) + 1):
            x = getattr(self, f"layer{number}")(x)
        return self.fc(x.mean((2, 3)))

    def basic_blocks(self) -> dict[str, BasicBlock]:
        """Return every block by name, in the model's order."""
        return {name: module for name, module in self.named_modules() if isinstance(module, BasicBlock)}

    def _initialise_(self) -> None:
        """Initialise as torchvision does; without norms each block starts as its shortcut.

        The paper does not say how its network without norms is initialised. With Kaiming's deviations in every
        convolution the residual stream would grow by a factor of 2 in each block.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if str(self.cfg.norm) == "none":
            for block in self.basic_blocks().values():
                nn.init.zeros_(block.conv2.weight)


def _convolution(into: int, out: int, size: int, stride: int, cfg: ResNetConfig) -> tuple[nn.Conv2d, nn.Module]:
    """Return a convolution that keeps the image's size (before the stride), and the norm after it."""
    has_norm = str(cfg.norm) == "batch"
    conv = nn.Conv2d(into, out, size, stride, padding=size // 2, bias=not has_norm)
    return conv, nn.BatchNorm2d(out) if has_norm else nn.Identity()


@register_model("resnet10", dataclass=ResNetConfig)
class ResNet10(ResNet):
    """One block in each stage; not in He et al., for small images and tests."""

    blocks = (1, 1, 1, 1)


@register_model("resnet18", dataclass=ResNetConfig)
class ResNet18(ResNet):
    """The paper's network (section 3.3)."""

    blocks = (2, 2, 2, 2)


@register_model("resnet34", dataclass=ResNetConfig)
class ResNet34(ResNet):
    blocks = (3, 4, 6, 3)


RESNETS = ("resnet10", "resnet18", "resnet34")
