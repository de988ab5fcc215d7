"""A network trained by ATS against the same network trained alone: sacreBLEU's paired bootstrap, seed by seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sacrebleu.significance import PairedTest

from scripts.tables.description import Table
from scripts.tables.records import Record, Records, RunKey
from scripts.tables.scoring import References


@dataclass(frozen=True)
class Pair:
    """One network, trained by ATS and alone, with one seed.

    Args:
        network: its name in the run by ATS.
        network_alone: in its own run; there level 2 is a core, too.
    """

    network: str
    ats: RunKey
    alone: RunKey
    network_alone: str

    @property
    def sides(self) -> tuple[tuple[RunKey, str], tuple[RunKey, str]]:
        return (self.ats, self.network), (self.alone, self.network_alone)


def pairs(table: Table, seeds: tuple[int, ...]) -> Iterator[Pair]:
    """Every pair of a table, whether it was run or not."""
    networks = {row.name: row.networks for row in table.rows}
    for row in table.rows:
        for network, alone in row.against.items():
            (network_alone,) = networks[alone]
            for seed in seeds:
                yield Pair(network, (row.name, seed), (alone, seed), network_alone)


def paired_bootstrap(ats: list[str], alone: list[str], references: References) -> tuple[float, float, str]:
    """Difference in BLEU of the first from the second, p-value, signature.

    Koehn (2004), as sacreBLEU does it: 1,000 resamples of the test set, sacreBLEU's seed. Its p-value is the share of
    resamples whose absolute difference exceeds the mean one by more than the difference itself
    (sacrebleu/significance.py, _paired_bs_test), which for a large difference is a test of one side.
    """
    test = PairedTest([("alone", alone), ("ats", ats)], {"BLEU": references.metric()}, [references.lines], "bs", 1000)
    signatures, scores = test()
    baseline, other = scores["BLEU"]
    return other.score - baseline.score, other.p_value, str(signatures["BLEU"])


def compare(table: Table, seeds: tuple[int, ...], records: Records, references: References) -> None:
    """Record a comparison of every pair that was run, unless there is one of the same hypotheses.

    A network whose hypotheses are not there, or that was scored against other references, is left out.
    """
    runs, done = records.runs(), records.comparisons()
    for pair in pairs(table, seeds):
        if pair.ats not in runs or pair.alone not in runs:
            continue
        sides = [runs[pair.ats], runs[pair.alone]]
        if any(side["references_sha256"] != references.digest for side in sides):
            continue
        digests = digests_of(pair, runs)
        if done.get((*pair.ats[:1], pair.network, pair.ats[1]), {}).get("hypotheses_sha256") == digests:
            continue
        ats, alone = (records.hypotheses(key, network) for key, network in pair.sides)
        if ats is None or alone is None:
            continue
        difference, p_value, signature = paired_bootstrap(ats, alone, references)
        records.add_comparison(
            {
                "row": pair.ats[0],
                "against": pair.alone[0],
                "network": pair.network,
                "seed": pair.ats[1],
                "difference": difference,
                "p_value": p_value,
                "signature": signature,
                "hypotheses_sha256": digests,
            }
        )


def digests_of(pair: Pair, runs: dict[RunKey, Record]) -> list[str]:
    """What a comparison is valid for: the hypotheses of both sides."""
    return [runs[key]["networks"][network]["hypotheses_sha256"] for key, network in pair.sides]
