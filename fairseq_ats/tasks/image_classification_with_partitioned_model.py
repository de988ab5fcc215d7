"""Classify images with a super-network and the core, or several networks, inside it: data and models."""

# No "from __future__ import annotations" here: fairseq makes options from the field types and needs them as types
# (fairseq/dataclass/utils.py:39).

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Optional

import torch
from fairseq.distributed import utils as distributed_utils
from fairseq.tasks import register_task
from omegaconf import II, MISSING
from torch import Tensor

from fairseq_ats.architectures.partitioned_resnet import (
    MIN_SIDE,
    check_model_options,
    layer_type,
    partition_model_,
)
from fairseq_ats.architectures.resnet_parts import parts_of
from fairseq_ats.checkpoints.keys import IMAGE_TASK_NAME, IMAGES_KEY
from fairseq_ats.data.image_dataset import ImageDataset
from fairseq_ats.data.image_folder import ImageData
from fairseq_ats.modules.batch_norm import kept_buffers
from fairseq_ats.options.config import PartitionedConfig
from fairseq_ats.options.groups import option_of
from fairseq_ats.partition.names import split_metric
from fairseq_ats.partition.shares import CONVOLUTION
from fairseq_ats.schemes.schedule import SchemeName
from fairseq_ats.training.out_of_memory import StepResult
from fairseq_ats.training.partitioned_task import PartitionedTask

# Schemes that train parts of a network, of which the whole is validated and saved.
_OF_PARTS_OF_THE_WHOLE = (SchemeName.DROPOUT, SchemeName.MAST, SchemeName.IST)


@dataclass
class PartitionedImageConfig(PartitionedConfig):
    """The options of this plugin, and of images."""

    data: str = field(default=MISSING, metadata={"help": "folder of prepared images, as `fairseq-ats images` makes it"})
    crop_padding: Optional[int] = field(
        default=None,
        metadata={
            "help": "cut each training image out of itself with so many black pixels on each side, at a random place; "
            "default: as the data say, 4 for CIFAR-10",
            "example": "--crop-padding 0",
        },
    )
    flip: Optional[float] = field(
        default=None,
        metadata={
            "help": "probability that a training image is mirrored; default: as the data say, 0.5 for CIFAR-10",
            "example": "--flip 0",
        },
    )
    seed: int = II("common.seed")
    batch_size: Optional[int] = II("dataset.batch_size")


@register_task(IMAGE_TASK_NAME, dataclass=PartitionedImageConfig)
class ImageClassificationWithPartitionedModelTask(PartitionedTask):
    """``--task image_classification_with_partitioned_model``: ATS on a ResNet (section 3.3 of the paper).

    The name of this class is a key in checkpoints.
    """

    cfg: PartitionedImageConfig

    source_dictionary = target_dictionary = None  # fairseq's criteria then pad with -100
    default_partition: ClassVar[dict[str, Any]] = {"module_name": CONVOLUTION, "small_ratio": 0.5}  # section 3.3
    partition_model_ = staticmethod(partition_model_)
    layer_type = staticmethod(layer_type)
    model_parts = staticmethod(parts_of)

    def __init__(self, cfg: PartitionedImageConfig, data: ImageData | None = None) -> None:
        self.data = ImageData.read(Path(cfg.data)) if data is None else data
        super().__init__(cfg)

    @classmethod
    def data_problems(cls, cfg: PartitionedImageConfig) -> list[str]:
        try:
            ImageData.read(Path(cfg.data))
        except ValueError as error:
            return [str(error)]
        return []

    @classmethod
    def training_problems(cls, cfg: PartitionedImageConfig) -> list[str]:
        problems = [
            f"{option} is {value}, which is for translation; a ResNet is split by {CONVOLUTION}; leave it out"
            for option, value in (
                ("--partitioned-linear-module-name", cfg.partitioned_linear_module_name),
                ("--init-from", cfg.init_from),
                ("--init-super", cfg.init_super),
            )
            if value is not None
        ]
        if cfg.scheme == SchemeName.MEPROP:
            problems.append("--scheme is meprop, which is for linear layers; a ResNet has convolutions")
        if cfg.fp16 or cfg.bf16:
            problems.append("--fp16 and --bf16 round the running statistics of norms; use --autocast bfloat16")
        if cfg.flip is not None and not 0 <= cfg.flip <= 1:
            problems.append(f"--flip is {cfg.flip}; allowed: 0 to 1")
        metric = cfg.best_checkpoint_metric or ""
        if split_metric(metric)[1] not in ("loss", "nll_loss", "ppl", "accuracy"):
            problems.append(
                f"--best-checkpoint-metric is {metric}; allowed: loss, accuracy, core_loss, core_accuracy, ..."
            )
        elif metric.endswith("accuracy") and not option_of(cfg, "criterion", "report_accuracy"):
            problems.append(f"--best-checkpoint-metric is {metric}, which needs --report-accuracy")
        return problems

    def check_model_options(self, cfg: Any) -> None:
        check_model_options(cfg, self.data.shape)
        scheme = self.options.scheme.name
        if scheme in _OF_PARTS_OF_THE_WHOLE and str(cfg.norm) == "batch":
            raise ValueError(
                f"--scheme is {scheme}, which gives batch norms the running statistics of parts of the network, and "
                "the whole of it is validated and saved; use --norm none"
            )

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build a ResNet and partition it.

        Its activations are channels-last, as the images are. Its parameters are not: legacy_ddp takes views of their
        gradients (fairseq/distributed/legacy_distributed_data_parallel.py:90).
        """
        model = super().build_model(cfg, from_checkpoint)
        self._has_norms = str(model.cfg.norm) != "none"
        return model

    def data_state(self) -> dict[str, Any]:
        return {IMAGES_KEY: self.data.state}

    def check_same_data(self, saved: Mapping[str, Any], source: str) -> None:
        """Compare the classes, the shape and how pixels become numbers.

        Raises:
            ValueError: the checkpoint belongs to other data.
        """
        own, theirs = self.data.state, saved.get(IMAGES_KEY) or {}
        for name, value in own.items():
            if theirs.get(name) != value:
                raise ValueError(
                    f"{source} was trained on images with {name} {theirs.get(name)}, and {self.cfg.data} has {value}"
                )

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **_of_fairseq: Any) -> None:
        """Check the files of a split and load it; training images are augmented and shuffled.

        Raises:
            ValueError: the files are damaged, or cannot be trained on with these options.
        """
        if split != "train":
            self.datasets[split] = ImageDataset(self.data, split)
            return
        cfg, side = self.cfg, min(self.data.shape[:2])
        padding = self.data.crop_padding if cfg.crop_padding is None else cfg.crop_padding
        if not 0 <= padding < side:
            raise ValueError(f"--crop-padding is {padding}; allowed: 0 to {side - 1}, less than a side of the images")
        flip = self.data.flip if cfg.flip is None else cfg.flip
        images = ImageDataset(self.data, split, padding, flip, cfg.seed, shuffles=True)
        if cfg.batch_size and len(images) % cfg.batch_size == 1 and side <= MIN_SIDE and self._has_norms:
            raise ValueError(
                f"--batch-size is {cfg.batch_size}, which leaves one of {len(images):,} images alone, and a batch norm "
                "cannot normalise one pixel; allowed: another size, or --norm none"
            )
        self.datasets[split] = images

    def get_batch_iterator(self, dataset: Any, *arguments: Any, **options: Any) -> Any:
        """Return fairseq's iterator over all images: it would drop what exceeds a multiple of 8."""
        options["required_batch_size_multiple"] = 1
        return super().get_batch_iterator(dataset, *arguments, **options)

    def max_positions(self) -> None:
        """Return None: all images have one size."""

    def counted(self, targets: Tensor, criterion: Any) -> Tensor:
        return torch.ones_like(targets, dtype=torch.bool)

    def train_step(
        self, sample: Any, model: Any, criterion: Any, optimizer: Any, update_num: int, ignore_grad: bool = False
    ) -> StepResult:
        """Run one update; the pass of a dummy batch (fairseq/trainer.py:849) moves no running statistics."""
        with kept_buffers(model) if ignore_grad else nullcontext():
            return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)

    def begin_valid_epoch(self, epoch: int, model: Any) -> None:
        """Average the running statistics of all workers, so that all validate what the first one saves."""
        super().begin_valid_epoch(epoch, model)
        workers = distributed_utils.get_data_parallel_world_size()
        if workers > 1:
            for buffer in filter(torch.is_floating_point, model.buffers()):
                distributed_utils.all_reduce(buffer, distributed_utils.get_data_parallel_group())
                buffer.div_(workers)
