"""Declare the options of every task of this plugin, each once."""

# No "from __future__ import annotations" here: fairseq makes options from the field types and needs them as types
# (fairseq/dataclass/utils.py:39).

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II

from fairseq_ats.partition.fields import CoreLayers, PrivateNorms
from fairseq_ats.partition.partition import DEFAULT_MODULE_NAME, DEFAULT_SMALL_RATIO
from fairseq_ats.partition.shares import MODULE_NAMES
from fairseq_ats.schemes.arguments import described
from fairseq_ats.schemes.ist import SHARED_PARAMETERS
from fairseq_ats.schemes.options import SCHEMES_OF_PARTS
from fairseq_ats.schemes.schedule import SchemeName
from fairseq_ats.theory.monitor import DROPOUTS

# Names of dtypes of PyTorch.
AUTOCAST_PRECISIONS = ("bfloat16",)


class InitOrder(StrEnum):
    """The values of ``--init-order``."""

    UNCHANGED = "unchanged"
    IMPORTANCE = "importance"


class SuperStart(StrEnum):
    """The values of ``--init-super``: what the super-network of a new low-rank run starts as."""

    STOCK = "stock"
    CORE = "core"


@dataclass
class PartitionedConfig(FairseqDataclass):
    """The options of this plugin. None stands for the checkpoint's value, or for the default in a new run.

    ``help`` and ``example`` of an option are also its row on the page of options.
    """

    # A call is no type to mypy, but fairseq makes the choices of an option from the field type (ChoiceEnum).
    partitioned_linear_module_name: Optional[ChoiceEnum(list(MODULE_NAMES))] = field(  # type: ignore[valid-type]
        default=None,
        metadata={
            "help": "layer that replaces linear layers: PartitionedRankLinear (low-rank core) or PartitionedLinear "
            f"(small-width core); default: as in the checkpoint, or {DEFAULT_MODULE_NAME}",
            "example": "--partitioned-linear-module-name PartitionedLinear",
        },
    )
    # A number, or several with commas between them: see parse_small_ratio.
    small_ratio: Optional[str] = field(
        default=None,
        metadata={
            "help": "r, the size of the core relative to the full layer, 0 < r < 1. A low-rank core has rank "
            "max(1, round(r * min(in, out))); a small-width core keeps r of the hidden neurons, and r of the key/query "
            "dimensions of each head. Several ratios in ascending order, with commas between them, make networks "
            f"between the core and the super-network; default: as in the checkpoint, or {DEFAULT_SMALL_RATIO}",
            "example": "--small-ratio 0.03125,0.125",
        },
    )
    # Not in the paper. If one of them is given, and neither option above, linear layers stay whole.
    core_encoder_layers: Optional[str] = field(
        default=None,
        metadata={
            "help": "how many encoder layers the core runs, below the final norm; with several networks, one number "
            "for each below the super-network; default: as in the checkpoint, or all layers",
            "example": "--core-encoder-layers 3",
        },
    )
    core_decoder_layers: Optional[str] = field(
        default=None,
        metadata={
            "help": "the same for decoder layers, on which the time of decoding depends most",
            "example": "--core-decoder-layers 2 --partitioned-linear-module-name PartitionedLinear --small-ratio 0.25",
        },
    )
    core_layers: Optional[ChoiceEnum([choice.value for choice in CoreLayers])] = field(  # type: ignore[valid-type]
        default=None,
        metadata={
            "help": "which layers the smaller networks run: the first, every other one (spread), or the last; "
            "default: as in the checkpoint, or last",
            "example": "--core-decoder-layers 3 --core-layers first",
        },
    )
    core_ffn: Optional[str] = field(
        default=None,
        metadata={
            "help": "what the core has of feed-forward modules: rank:R, width:R or whole. It counts for more than the "
            "first two options; default: as in the checkpoint, or what the first two options say",
            "example": "--core-ffn width:0.25 --core-qk rank:0.03125",
        },
    )
    core_qk: Optional[str] = field(
        default=None,
        metadata={"help": "the same for query and key projections", "example": "--core-ffn width:0.25 --core-qk whole"},
    )
    core_vo: Optional[str] = field(
        default=None,
        metadata={
            "help": "the same for value and output projections of attention; default: as in the checkpoint, or whole, "
            "as in the paper",
            "example": "--core-vo width:0.25",
        },
    )
    private_norms: Optional[ChoiceEnum([norms.value for norms in PrivateNorms])] = field(  # type: ignore[valid-type]
        default=None,
        metadata={
            "help": "norms that each network has for itself: the last one of a pre-norm encoder and decoder (final), "
            "all, or none; an experiment; default: as in the checkpoint, or none",
            "example": "--core-decoder-layers 2 --private-norms final",
        },
    )
    extension_arch: Optional[str] = field(
        default=None,
        metadata={
            "help": "a second Transformer beside that of --arch, of the same dictionaries: the core is the network of "
            "--arch, the super-network adds the logits of both; default: as in the checkpoint, or none",
            "example": "--extension-arch transformer --alternate",
        },
    )
    extension_args: Optional[str] = field(
        default=None,
        metadata={
            "help": "options of --extension-arch, in JSON; in quotes in the YAML file of fairseq-hydra-train; those "
            "that are not given are the arch's; default: as in the checkpoint, or none",
            "example": """--extension-arch transformer --extension-args '{"encoder_layers": 1, "dropout": 0.3}'""",
        },
    )
    scheme: Optional[ChoiceEnum([name.value for name in SchemeName])] = field(  # type: ignore[valid-type]
        default=None,
        metadata={
            "help": "what an update trains: the highest level (standard), the core as the only network (core), one "
            "network in turn (alternate), or every network by the sum of their gradients (slimmable). The others train "
            "the highest level by its parts; --scheme-args lists them; "
            "default: as in the checkpoint of a resumed run, or standard",
            "example": "--scheme slimmable",
        },
    )
    scheme_args: Optional[str] = field(
        default=None,
        metadata={
            "help": "arguments of the scheme, in JSON; in quotes in the YAML file of fairseq-hydra-train. "
            f"{described(SCHEMES_OF_PARTS)}. Default: as in the checkpoint of a resumed run, or none",
            "example": """--scheme dropout --scheme-args '{"keep_prob": 0.5}'""",
        },
    )
    parts: Optional[int] = field(
        default=None,
        metadata={
            "help": "with --scheme ist: into how many parts the neurons are divided; the number of workers times "
            "--update-freq; default: as in the checkpoint of a resumed run",
            "example": "--scheme ist --parts 2 --update-freq 2",
        },
    )
    local_updates: Optional[int] = field(
        default=None,
        metadata={
            "help": "with --scheme ist: after so many updates the parts are drawn again, and workers exchange theirs; "
            "default: as in the checkpoint of a resumed run, or 20",
            "example": "--scheme ist --parts 2 --update-freq 2 --local-updates 50",
        },
    )
    shared_parameters: Optional[ChoiceEnum(list(SHARED_PARAMETERS))] = field(  # type: ignore[valid-type]
        default=None,
        metadata={
            "help": "with --scheme ist: how parameters move that no neuron owns: by the mean gradient of all parts "
            "(synchronous), as a copy of each worker whose mean is taken when parts are exchanged (local), or not at "
            "all (fixed); default: as in the checkpoint of a resumed run, or synchronous",
            "example": "--scheme ist --parts 2 --update-freq 2 --shared-parameters fixed",
        },
    )
    freeze: Optional[str] = field(
        default=None,
        metadata={
            "help": "never move the parameters whose names this regular expression finds, whatever the scheme; an "
            "empty one moves all of them again; default: as in the checkpoint of a resumed run, or none",
            "example": "--freeze embed_tokens",
        },
    )
    step_scale: Optional[str] = field(
        default=None,
        metadata={
            "help": "learning rate of a masked or perturbed update relative to --lr: a number, or alpha, the last "
            "alpha_t that --criteria-interval measured (Theorem 1 of the paper), 0 where it is negative (on a resume "
            "give that interval again); default: as in the checkpoint of a resumed run, or 1",
            "example": "--alternate --criteria-interval 10 --step-scale alpha",
        },
    )
    alternate: bool = field(
        default=False,
        metadata={
            "help": "the paper's name of --scheme alternate: even updates train the super-network, odd updates run and "
            "move only the core",
            "example": "--alternate",
        },
    )
    alternate_pattern: Optional[str] = field(
        default=None,
        metadata={
            "help": "with --scheme alternate: how many updates in a row train each network, from the super-network "
            "down, as in 3:1; or such patterns and the updates from which on they hold, as in 1:1@0,2:1@4000; in "
            "quotes in the YAML file of fairseq-hydra-train; default: as in the checkpoint of a resumed run, or one "
            "each",
            "example": "--alternate --alternate-pattern 3:1",
        },
    )
    super_only_updates: Optional[int] = field(
        default=None,
        metadata={
            "help": "with --scheme alternate or slimmable: train only the super-network for the first N updates; "
            "default: as in the checkpoint of a resumed run, or 0",
            "example": "--alternate --super-only-updates 4000",
        },
    )
    core_only_from: Optional[int] = field(
        default=None,
        metadata={
            "help": "with --scheme alternate or slimmable: train only the core from update N on, counting from 0; "
            "default: as in the checkpoint of a resumed run, or never",
            "example": "--alternate --core-only-from 20000",
        },
    )
    distillation_weight: Optional[float] = field(
        default=None,
        metadata={
            "help": "with --scheme alternate or slimmable: weight, from 0 to 1, of the super-network's soft targets in "
            "the loss of the smaller networks; default: as in the checkpoint of a resumed run, or 0",
            "example": "--alternate --distillation-weight 0.5",
        },
    )
    distillation_temperature: Optional[float] = field(
        default=None,
        metadata={
            "help": "temperature, from 0.01 to 100, of the soft targets of --distillation-weight; default: as in the "
            "checkpoint of a resumed run, or 1",
            "example": "--alternate --distillation-weight 0.5 --distillation-temperature 2",
        },
    )
    distillation_from: Optional[int] = field(
        default=None,
        metadata={
            "help": "with --distillation-weight: distil from update N on, counting from 0, when the super-network "
            "knows something to teach; default: as in the checkpoint of a resumed run, or 0",
            "example": "--alternate --distillation-weight 0.5 --distillation-from 4000",
        },
    )
    core_dropout: Optional[float] = field(
        default=None,
        metadata={
            "help": "with --scheme alternate or slimmable: dropout of the core in training, in the place of each "
            "dropout of the model that is above 0; default: as in the checkpoint of a resumed run, or the model's",
            "example": "--alternate --dropout 0.3 --core-dropout 0.1",
        },
    )
    max_level: Optional[int] = field(
        default=None,
        metadata={
            "help": "highest network to build and train, or the network to decode: 1 is the core, 2 the super-network, "
            "or with several ratios the next larger network, and so on. Training with 1 trains the core alone; "
            "default: the highest network of the checkpoint, or the super-network",
            "example": "--max-level 1",
        },
    )
    autocast: Optional[ChoiceEnum(list(AUTOCAST_PRECISIONS))] = field(  # type: ignore[valid-type]
        default=None,
        metadata={
            "help": "compute the matrix products of training in this precision and keep float32 weights, without loss "
            "scaling; for CPUs with bfloat16 instructions and for GPUs; default: the weights' precision",
            "example": "--autocast bfloat16",
        },
    )
    init_from: Optional[str] = field(
        default=None,
        metadata={
            "help": "start a new run from the weights of this checkpoint, of a trained stock Transformer of the same "
            "--arch; a resumed run ignores it",
            "example": "--init-from runs/standard/checkpoint_best.pt",
        },
    )
    init_order: ChoiceEnum([order.value for order in InitOrder]) = field(  # type: ignore[valid-type]
        default=InitOrder.UNCHANGED.value,
        metadata={
            "help": "with --init-from and a small-width core: put the important hidden neurons and key/query "
            "dimensions first, into the core (importance), or keep their order (unchanged, the default)",
            "example": "--init-from runs/standard/checkpoint_best.pt --init-order importance",
        },
    )
    init_super: Optional[ChoiceEnum([start.value for start in SuperStart])] = field(  # type: ignore[valid-type]
        default=None,
        metadata={
            "help": "with a low-rank core: start the super-network of a new run as the stock model (stock), or as its "
            "core, with W = 0 (core); default: core with --scheme alternate or slimmable, stock otherwise and with "
            "--init-from",
            "example": "--alternate --init-super stock",
        },
    )
    perturbed_validation: Optional[int] = field(
        default=None,
        metadata={
            "help": "with --scheme dropout, ist, mast or prune: validate the perturbed network too, at N points, the "
            "same in each validation, and keep its best checkpoint; default: 1 with --scheme prune, otherwise 0",
            "example": "--perturbed-validation 4",
        },
    )
    criteria_interval: int = field(
        default=0,
        metadata={
            "help": "measure the paper's convergence criteria (c_norm, c_sim, c_align, alpha_t, q_t) in updates 0, N, "
            "2N, ...; default: 0, never. The training is the same with and without it",
            "example": "--criteria-interval 100",
        },
    )
    criteria_of: Optional[str] = field(
        default=None,
        metadata={
            "help": "with --criteria-interval: what x is compared with: the scheme's own perturbation and mask "
            "(scheme), each network below the highest (core), or a random part of the neurons, whatever the scheme "
            "(dropout, or its arguments in JSON). Also logs the cosine, and three quantities of the perturbation; "
            "default: scheme, without these four where the scheme is one of networks",
            "example": "--criteria-interval 10 --criteria-of dropout",
        },
    )
    criteria_dropout: ChoiceEnum(list(DROPOUTS)) = field(  # type: ignore[valid-type]
        default=DROPOUTS[0],
        metadata={
            "help": "dropout of the two gradients that --criteria-interval compares: the masks of the update for both "
            "(same, the paper's definition and the default), different masks, or none (off)",
            "example": "--criteria-interval 100 --criteria-dropout off",
        },
    )
    criteria_by_layer_type: bool = field(
        default=False,
        metadata={
            "help": "also report the criteria of each layer type (encoder_fc1, decoder_cross_attn_qk, ...)",
            "example": "--criteria-interval 100 --criteria-by-layer-type",
        },
    )
    # Read-only views of other groups of fairseq's configuration.
    best_checkpoint_metric: str = II("checkpoint.best_checkpoint_metric")
    maximize_best_checkpoint_metric: bool = II("checkpoint.maximize_best_checkpoint_metric")
    save_dir: str = II("checkpoint.save_dir")
    restore_file: str = II("checkpoint.restore_file")
    continue_once: Optional[str] = II("checkpoint.continue_once")
    finetune_from_model: Optional[str] = II("checkpoint.finetune_from_model")
    reset_optimizer: bool = II("checkpoint.reset_optimizer")
    reset_meters: bool = II("checkpoint.reset_meters")
    no_last_checkpoints: bool = II("checkpoint.no_last_checkpoints")
    write_checkpoints_asynchronously: bool = II("checkpoint.write_checkpoints_asynchronously")
    checkpoint_suffix: str = II("checkpoint.checkpoint_suffix")
    no_save: bool = II("checkpoint.no_save")
    disable_validation: bool = II("dataset.disable_validation")
    patience: int = II("checkpoint.patience")
    max_update: int = II("optimization.max_update")
    path_to_decode: Optional[str] = II("common_eval.path")
    use_bmuf: bool = II("optimization.use_bmuf")
    zero_sharding: Any = II("distributed_training.zero_sharding")
    ddp_backend: Any = II("distributed_training.ddp_backend")
    distributed_world_size: int = II("distributed_training.distributed_world_size")
    find_unused_parameters: bool = II("distributed_training.find_unused_parameters")
    seed: int = II("common.seed")
    clip_norm: float = II("optimization.clip_norm")
    cpu: bool = II("common.cpu")
    tpu: bool = II("common.tpu")
    fp16: bool = II("common.fp16")
    memory_efficient_fp16: bool = II("common.memory_efficient_fp16")
    fp16_no_flatten_grads: bool = II("common.fp16_no_flatten_grads")
    bf16: bool = II("common.bf16")
    memory_efficient_bf16: bool = II("common.memory_efficient_bf16")
    amp: bool = II("common.amp")
    # A plain view would not resolve while decoding, where fairseq has no optimizer.
    optimizer_name: Optional[str] = "${oc.select:optimizer._name,null}"
