"""The configuration files of the tables' rows, and the tables' description."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairseq_ats.cli.config_file import options_of, read_config
from fairseq_ats.cli.yaml_file import read_yaml
from fairseq_ats.cost.training import TrainingCost, cost_of_options
from scripts.tables.description import COLUMNS, read_tables
from scripts.tables.plan import FILL
from tests.fixtures import OUR_TASK, ROOT

TABLES = read_tables()
RECIPES = {table.recipe.name: table.recipe for table in TABLES.values()}
ROWS = sorted(path for recipe in RECIPES.values() for path in recipe.configs.glob("*.yaml"))
ATS = {"alternate": True}
WARM = ATS | {"lr": 0.0016, "warmup_updates": 100, "max_update": None}
# By the end of a row's name.
OF_TRAINING: dict[str, dict[str, Any]] = {
    "alone": {"max_level": 1},
    "ats": ATS,
    "slimmable": {"scheme": "slimmable"},
    "pruned": {"scheme": "prune"},
    "subnets": {"scheme": "ist"},
    "slimmable_distilled": {"scheme": "slimmable", "distillation_weight": 1.0},
    "ats_distilled": ATS | {"distillation_weight": 0.5},
    "ats_twice": ATS | {"max_update": 2400, "total_num_update": 2400},
    "ats_3to1": ATS | {"alternate_pattern": "3:1"},
    "ats_super_first": ATS | {"super_only_updates": 400},
    "ats_core_last": ATS | {"core_only_from": 1000},
    "translations_warm_25": WARM | {"max_epoch": 5, "total_num_update": 1385},
    "translations_warm_35": WARM | {"max_epoch": 7, "total_num_update": 1939},
}
MODULES = {"low_rank": "PartitionedRankLinear", "small_width": "PartitionedLinear"}

# Table 4 of the paper, typed in once more.
TABLE_4 = {
    "iwslt14": {
        "decoder_attention_heads": 4,
        "decoder_ffn_embed_dim": 1024,
        "dropout": 0.3,
        "encoder_attention_heads": 4,
        "encoder_ffn_embed_dim": 1024,
        "lr": 0.0005,
        "max_epoch": 30,
        "max_tokens": 12000,
        "share_decoder_input_output_embed": True,
        "warmup_init_lr": -1,
        "weight_decay": 0.0001,
    },
    "wmt17": {
        "decoder_attention_heads": 8,
        "decoder_ffn_embed_dim": 2048,
        "dropout": 0.1,
        "encoder_attention_heads": 8,
        "encoder_ffn_embed_dim": 2048,
        "lr": 0.0007,
        "max_epoch": 22,
        "max_tokens": 18000,
        "warmup_init_lr": 1e-7,
        "weight_decay": 0.0,
    },
}
TABLE_4_OF_BOTH = {
    "adam_betas": "(0.9, 0.98)",
    "adam_eps": 1e-9,
    "alternate_lr_coef": 1.0,
    "criterion": "label_smoothed_cross_entropy",
    "decoder_embed_dim": 512,
    "decoder_layers": 6,
    "encoder_embed_dim": 512,
    "encoder_layers": 6,
    "label_smoothing": 0.1,
    "lr_scheduler": "inverse_sqrt",
    "optimizer": "adam_for_partitioned_model",
    "task": OUR_TASK,
    "warmup_updates": 4000,
}


def as_written(path: Path) -> dict[str, Any]:
    """The file's own lines, without its base."""
    return read_yaml(path)


def row_id(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("row", ROWS, ids=row_id)
def test_a_row_says_how_to_launch_it(row: Path) -> None:
    """What a row needs of another run, the command of its table makes and hands over."""
    launch = "fairseq-ats launch --workers 2 " if row.stem.endswith("_local") else ""
    expected = f"{launch}fairseq-ats train configs/{row_id(row)}.yaml {RECIPES[row.parent.name].data} "
    expected += f"--save-dir runs/tables/{row_id(row)}/seed1 --seed 1"
    for table in reversed(TABLES.values()):  # its first table is the one
        if any(one.needs and table.recipe.config(one.name) == row for one in table.rows):
            expected = f"scripts/reproduce_table.sh {table.name} --rows {row.stem} --seeds 1"
    assert f"#   {expected}" in row.read_text().split("\n")[:3]


PAIR = sorted(RECIPES["multi30k_kinds"].configs.glob("pair_*.yaml"))
CHANGED = [row for row in ROWS if row.stem != "standard" and row.parent.name != "multi30k_converged"]


@pytest.mark.parametrize("row", sorted({*CHANGED} - {*PAIR}), ids=row_id)
def test_a_row_changes_what_its_name_says(row: Path) -> None:
    own: dict[str, Any] = {"base": "standard.yaml"}
    if of_depth := re.fullmatch(r"decoder_(\d)(?:_(spread|last))?(?:_width_([\d.]+))?_(alone|ats)", row.stem):
        depth, choice, width, name = of_depth.groups()
        own |= {"core_decoder_layers": int(depth), "core_layers": choice or "first"}
        # Without a width the core's layers are whole.
        own |= {"small_ratio": float(width)} if width else {"small_ratio": None, "partitioned_linear_module_name": None}
    elif of_neurons := re.fullmatch(r"ffn_([\d.]+)_(alone|ats)", row.stem):
        share, name = of_neurons.groups()
        own |= {"core_ffn": f"width:{share}", "core_qk": "whole"}
    elif of_subnets := re.fullmatch(r"ist_(\d)(?:_h(\d+))?(_exact|_local)?", row.stem):
        parts, length, other = of_subnets.groups()
        name = "subnets"
        own |= {"parts": int(parts), "max_tokens": 2500 // int(parts)}
        # Where each subnet has a worker, an update has a batch of each.
        own |= {"shared_parameters": "local"} if other == "_local" else {"update_freq": int(parts)}
        own |= {"local_updates": int(length)} if length else {}
        own |= {"scheme_args": '{"scale": "exact"}'} if other == "_exact" else {}
    elif of_pruning := re.fullmatch(r"prune_([\d.]+)(?:_(hard|afterwards))?", row.stem):
        share, how = of_pruning.groups()
        name = "pruned"
        at_end = {"begin": 1198, "end": 1199, "every": 1} if how == "afterwards" else {"end": 900}
        own["scheme_args"] = json.dumps(
            {"sparsity": float(share)} | at_end | ({"feedback": False} if how == "hard" else {})
        )
    else:
        kind, ratios, name = re.fullmatch(r"(low_rank|small_width)_([\d._]+)_([a-z]\w*)", row.stem).groups()
        own["partitioned_linear_module_name"] = MODULES[kind]
        own["small_ratio"] = float(ratios) if "_" not in ratios else ratios.replace("_", ",")
    own |= OF_TRAINING[name]
    standard = read_config(row.with_name("standard.yaml"))
    assert as_written(row) == {key: value for key, value in own.items() if standard.get(key) != value}


@pytest.mark.parametrize("row", PAIR, ids=row_id)
def test_a_pair_changes_what_its_name_says(row: Path) -> None:
    """Half as deep and half as wide a Transformer; beside it the standard one, which the extension's options repeat."""
    own, standard = read_config(row), read_config(row.with_name("standard.yaml"))
    extension = own.pop("extension_args") | {"arch": own.pop("extension_arch")}
    assert extension == {key: value for key, value in standard.items() if key in extension}
    sizes = {key for key in standard if re.fullmatch(r"\w+_(layers|embed_dim)", key)}
    assert sizes < extension.keys()
    scheme = {"core_alone": {"max_level": 1}, "ats": {"alternate": True}, "slimmable": {"scheme": "slimmable"}}
    kept = {k: v for k, v in standard.items() if k not in ("partitioned_linear_module_name", "small_ratio")}
    expected = kept | {key: standard[key] // 2 for key in sizes} | {"criterion": "label_smoothed_cross_entropy"}
    assert own == expected | scheme[row.stem.removeprefix("pair_")]


# sha256 of the resolved options of all rows. After a change that is meant, write the new one.
RESOLVED = {
    "iwslt14": "cbb3583a39ff9ac7",
    "iwslt14_strong": "66e587f62540136e",
    "wmt17": "9f4c1827bc3f19fa",
    "wmt17_strong": "efe48e49862df64e",
    "multi30k": "6f4720abc772a62f",
    "multi30k_kinds": "fd46a4cb99d04e25",
    "multi30k_converged": "85b742970bb62097",
    "multi30k_half_hour": "ac9f7f578033687c",
    "multi30k_weight_decay": "177e761cb5f8ace4",
    "multi30k_strong": "894543dcdfe23cdc",
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_resolved_options_stay(recipe: str) -> None:
    resolved = {row.stem: read_config(row) for row in RECIPES[recipe].configs.glob("*.yaml")}
    assert hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()[:16] == RESOLVED[recipe]


@pytest.mark.parametrize("recipe", ["iwslt14", "wmt17"])
def test_the_papers_hyper_parameters(recipe: str) -> None:
    own = read_config(RECIPES[recipe].config("standard"))
    table_4 = TABLE_4[recipe] | TABLE_4_OF_BOTH
    assert {key: own[key] for key in table_4} == table_4
    # What the paper's table does not name does not change what is learned.
    assert own.keys() - table_4.keys() == {
        *("partitioned_linear_module_name", "small_ratio", "arch", "no_epoch_checkpoints"),
        *("eval_bleu", "eval_bleu_remove_bpe", "eval_bleu_args", "no_progress_bar", "log_interval"),
    }


@pytest.mark.parametrize("recipe", ["iwslt14", "wmt17"])
def test_the_strong_recipe_has_the_same_rows(recipe: str) -> None:
    plain, strong = RECIPES[recipe], RECIPES[f"{recipe}_strong"]
    for row in plain.configs.glob("*_*.yaml"):
        assert as_written(row) == as_written(strong.config(row.stem))
    assert as_written(strong.config("standard"))["base"] == f"../{recipe}/standard.yaml"
    assert read_config(strong.config("standard"))["keep_last_epochs"] >= strong.averaged_epochs


# The rows of a recipe have the same options but for those of the network, of which one recipe's stand for all.
TO_PARSE = [
    RECIPES["iwslt14"].config("standard"),
    RECIPES["iwslt14"].config("low_rank_0.25_alone"),
    *(
        RECIPES[name].config("small_width_0.03125_ats")
        for name in ("iwslt14", "iwslt14_strong", "wmt17", "wmt17_strong")
    ),
    RECIPES["multi30k"].config("low_rank_0.03125_ats"),
    RECIPES["multi30k_strong"].config("standard"),
    RECIPES["multi30k_kinds"].config("decoder_2_width_0.25_ats"),
    *(
        RECIPES["multi30k_converged"].config(f"small_width_0.25_{row}")
        for row in ("ats_distilled_late", "ats_2to1_late", "ats_core_dropout_0", "importance_warm_25")
    ),
]


@pytest.mark.parametrize("row", TO_PARSE, ids=row_id)
def test_rows_are_fairseqs_options(row: Path, parse: Callable[..., Any]) -> None:
    own = read_config(row)
    cfg = parse(arch=options_of(own, row), training=[])
    assert cfg.task._name == OUR_TASK
    assert float(cfg.task.small_ratio) == own["small_ratio"]
    assert cfg.optimization.lr == [own["lr"]]
    assert cfg.model.decoder_ffn_embed_dim == own["decoder_ffn_embed_dim"]
    assert cfg.checkpoint.keep_last_epochs == own.get("keep_last_epochs", -1)
    if "eval_bleu" in own:
        assert '"beam": 1' in cfg.task.eval_bleu_args


# Multi30k at convergence. What a row's name says, by its end.
LONGER = {"10": 160, "25": 400, "50": 800}
CONVERGED_KINDS: dict[str, dict[str, Any]] = {
    "low_rank_0.03125": {"partitioned_linear_module_name": "PartitionedRankLinear", "small_ratio": 0.03125},
    "small_width_0.25": {},
    "decoder_2_width_0.25": {"core_decoder_layers": 2},
    "decoder_2": {"partitioned_linear_module_name": None, "small_ratio": None, "core_decoder_layers": 2},
}
PLAIN_LOSS = {"criterion": "label_smoothed_cross_entropy"}  # the fused one keeps no logits to distil
CONVERGED_TREATMENTS: dict[str, dict[str, Any]] = {
    "alone": {"max_level": 1},
    "alone_translations": {"max_level": 1},
    "ats": ATS,
    "ats_translations": ATS,
    "ats_2to1": ATS | {"alternate_pattern": "2:1"},
    "ats_2to1_late": ATS | {"alternate_pattern": "1:1@0,2:1@800"},
    "ats_3to1_late": ATS | {"alternate_pattern": "1:1@0,3:1@800"},
    "ats_distilled": ATS | PLAIN_LOSS | {"distillation_weight": 0.5},
    "ats_distilled_late": ATS | PLAIN_LOSS | {"distillation_weight": 0.5, "distillation_from": 800},
    "ats_private_norms": ATS | {"private_norms": "all"},
    "ats_core_dropout_0": ATS | {"core_dropout": 0.0},
    "ats_core_dropout_0.05": ATS | {"core_dropout": 0.05},
    "ats_core_lr_0.5": ATS | {"alternate_lr_coef": 0.5},
    "importance_warm_25": ATS | {"init_order": "importance"},
    "translations_warm_25": ATS,
}


def converged_changes(name: str) -> dict[str, Any]:
    """What a row of multi30k_converged changes, but for updates that follow from costs."""
    kind = next((kind for kind in CONVERGED_KINDS if name.startswith(kind)), "standard")
    treatment = name.removeprefix(kind).removeprefix("_")
    own = dict(CONVERGED_KINDS.get(kind, {}))
    if warm := re.search(r"warm_(\d+)$", treatment):
        own |= {"lr": 0.0016, "warmup_updates": 30, "max_update": LONGER[warm[1]]}
    elif treatment == "1to3_warm":
        own |= ATS | {"alternate_pattern": "1:3", "lr": 0.0016, "warmup_updates": 30}
    elif treatment == "alone_warm":
        own |= {"max_level": 1, "lr": 0.0016, "warmup_updates": 30}
    elif treatment == "alone_short":
        own |= {"max_level": 1, "warmup_updates": 100}
    elif treatment == "alone_equal":
        own |= {"max_level": 1}
    elif treatment == "ats_twice":
        own |= ATS | {"max_update": 3200}
    if treatment.startswith("warm_") and kind != "standard":
        own |= ATS
    return own | CONVERGED_TREATMENTS.get(treatment, {})


@pytest.mark.parametrize("row", sorted(RECIPES["multi30k_converged"].configs.glob("*_*.yaml")), ids=row_id)
def test_a_row_of_convergence_changes_what_its_name_says(row: Path) -> None:
    own, expected = as_written(row), converged_changes(row.stem)
    assert own.pop("base") == "standard.yaml"
    assert own.pop("total_num_update", None) == own.get("max_update"), "the schedule ends with the training"
    if row.stem.startswith("standard_equal") or row.stem.endswith(("_equal", "_warm", "_short")):
        del own["max_update"]  # the next test
    assert own == expected


@pytest.mark.parametrize("kind", ["low_rank_0.03125", "small_width_0.25"])
def test_rows_for_equal_flops_cost_the_same(kind: str) -> None:
    recipe = RECIPES["multi30k_converged"]

    def cost(row: str) -> TrainingCost:
        tokens = FILL * 8192
        path = recipe.config(row)
        return cost_of_options(options_of(read_config(path), path), recipe.vocabulary, tokens, tokens / recipe.length)

    def updates(row: str) -> int:
        return read_config(recipe.config(row))["max_update"]

    ats, standard = cost(f"{kind}_ats"), cost("standard").costs[2].flops
    core = ats.costs[1].flops
    both = 1600 * (standard + core)
    assert updates(f"standard_equal_{kind}") * standard == pytest.approx(both, rel=0.005)
    assert updates(f"{kind}_alone_equal") * core == pytest.approx(both, rel=0.005)
    assert ats.flops(updates(f"{kind}_ats_twice")) == pytest.approx(both, rel=0.005)
    for row in ("alone_warm", "alone_short"):
        assert updates(f"{kind}_{row}") * core == pytest.approx(ats.flops(updates(f"{kind}_warm_25")), rel=0.005)
    if kind == "small_width_0.25":
        of_pattern = cost(f"{kind}_1to3_warm").flops(updates(f"{kind}_1to3_warm"))
        assert of_pattern == pytest.approx(ats.flops(updates(f"{kind}_warm_25")), rel=0.005)


CONVERGED_TABLES = {name: table for name, table in TABLES.items() if table.recipe.name == "multi30k_converged"}


def test_every_row_of_convergence_is_in_a_table() -> None:
    rows = [row for table in CONVERGED_TABLES.values() for row in table.rows]
    assert {row.name for row in rows} == {path.stem for path in RECIPES["multi30k_converged"].configs.glob("*.yaml")}
    by_name = {row.name: (row.networks, dict(row.needs), row.averaged_epochs) for row in rows}
    for row in rows:
        assert by_name[row.name] == (row.networks, row.needs, row.averaged_epochs), "tables share runs"
        of_one = {"super"} if row.name.startswith("standard") else {"core"}
        is_of_one = row.name.startswith("standard") or "_alone" in row.name
        assert set(row.networks) == (of_one if is_of_one else {"core", "super"})
        expected = {"init_from": "standard"} if "warm" in row.name else {}
        if "translations" in row.name:
            expected["data" if "alone" in row.name else "core_data"] = "standard"
        assert row.needs == expected
        config = read_config(RECIPES["multi30k_converged"].config(row.name))
        epochs = config["max_update"] // 76  # whole ones; as many as there are batches in one
        assert row.averaged_epochs == ("recipe" if epochs >= 20 else epochs // 2 if epochs >= 4 else None)


@pytest.mark.parametrize("table", CONVERGED_TABLES.values(), ids=CONVERGED_TABLES)
def test_comparisons_at_convergence(table: Any) -> None:
    for row in table.rows:
        kind = next((kind for kind in CONVERGED_KINDS if row.name.startswith(kind)), None)
        if len(row.networks) == 1:
            assert not row.against
        elif row.name.endswith("_twice"):
            assert row.against == {"core": f"{kind}_alone_equal", "super": f"standard_equal_{kind}"}
        else:
            assert row.against == {"core": f"{kind}_alone", "super": "standard"}


@pytest.mark.parametrize(
    "table",
    [table for name, table in TABLES.items() if name not in CONVERGED_TABLES],
    ids=[name for name in TABLES if name not in CONVERGED_TABLES],
)
def test_tables_have_rows_and_comparisons(table: Any) -> None:
    of_pruning = {"super": "standard", "perturbed": "ffn_0.25_alone"}
    rows = {row.name: row for row in table.rows}
    for row in table.rows:
        own = read_config(table.recipe.config(row.name))
        if row.name.startswith("prune_"):
            assert (row.networks, row.against) == (("super", "perturbed"), of_pruning)
            continue
        if row.name.startswith("ist_"):
            assert (row.networks, row.against) == (("super",), {"super": "standard"})
            continue
        networks = {"standard": {"super"}, "alone": {"core"}}.get(row.name.rsplit("_", 1)[-1], {"core", "super"})
        assert set(row.networks) == networks | ({"level2"} if "," in str(own.get("small_ratio")) else set())
        assert row.published.keys() <= set(row.networks) <= COLUMNS.keys()
        if networks != {"core", "super"}:
            assert not row.against
            continue
        if row.name.startswith("pair_"):
            assert row.against == {"core": "pair_core_alone", "super": "standard"}
            continue
        if row.name.startswith("decoder_"):
            alone_name = re.sub("_spread|_last", "", row.name).removesuffix("_ats") + "_alone"
            assert row.against == {"super": "standard"} | ({"core": alone_name} if alone_name in rows else {})
            continue
        # The same network alone is the core of another row.
        module, *ratios = re.fullmatch(r"(\w+?)_([\d.]+)(?:_([\d.]+))?_[a-z]\w*", row.name).groups()
        of_network = {"core": ratios[0], "level2": ratios[1]}
        alone = {network: f"{module}_{ratio}_alone" for network, ratio in of_network.items() if ratio}
        there = {network: name for network, name in alone.items() if name in rows}
        assert row.against == there | {"super": "standard"}
        assert len(there) == 1


PAPER = ROOT.parent / "shared" / "paper" / "003_aab948f00bfb154c.txt"


@pytest.mark.skipif(not PAPER.is_file(), reason="needs the paper's text")
def test_published_numbers_are_the_papers() -> None:
    """Every number of Tables 1 and 2 is in the description, in the table's order, and Appendix C's, too."""
    text = PAPER.read_text().replace("<b>", "").replace("</b>", "")
    number = r"(\d\d\.\d\d) ?\((\d\.\d\d)\)"
    ours = {
        name: [(p.mean, p.std) for row in TABLES[name].rows for p in row.published.values() if p.std is not None]
        for name in ("1a", "1b", "2a", "2b")
    }
    lines = [line for line in text.split("\n") if line.startswith(("| Standard Training", "| Alternating Training"))]
    one = [[(float(m), float(s)) for m, s in re.findall(number, line)] for line in lines if line.count("|") == 4]
    assert [pair for row in one for pair in row] == ours["1a"] + ours["1b"]
    left, right = [], []
    for line in (line for line in lines if line.count("|") > 4):
        cells = line.strip("|").split("|")
        left += re.findall(number, "|".join(cells[:3]))
        right += re.findall(number, "|".join(cells[3:]))
    assert [(float(m), float(s)) for m, s in left] == ours["2a"]
    assert [(float(m), float(s)) for m, s in right] == ours["2b"]
    assert "yields 22.10 BLEU score" in text
    assert TABLES["2b"].rows[-1].published["core"].mean == 22.10
