"""Compare a network trained by ATS with the same network trained alone: sacreBLEU's paired bootstrap, seed by seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sacrebleu.significance import PairedTest

from scripts.tables.description import Table
from scripts.tables.records import Record, Records, RunKey, scores_of
from scripts.tables.scoring import References


@dataclass(frozen=True)
class Pair:
    """One network, trained by ATS and alone, with one seed.

    Args:
        network: its name in the run by ATS.
        network_alone: its name in its own run; there, level 2 is the core.
    """

    network: str
    ats: RunKey
    alone: RunKey
    network_alone: str

    def scores(self, runs: Mapping[RunKey, Record]) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return what both score; None if one of the runs is not recorded."""
        if self.ats not in runs or self.alone not in runs:
            return None
        return scores_of(runs[self.ats], self.network), scores_of(runs[self.alone], self.network_alone)

    def comparison(self, runs: Mapping[RunKey, Record]) -> dict[str, Any] | None:
        """Return the recorded comparison; None if there is none, or if it is of other hypotheses."""
        scores = self.scores(runs)
        if scores is None:
            return None
        recorded = scores[0].get("comparison")
        return recorded if recorded is not None and recorded["hypotheses_sha256"] == _digests(scores) else None


def pairs(table: Table, seeds: tuple[int, ...]) -> Iterator[Pair]:
    """Yield every pair of a table, whether it was run or not."""
    networks = {row.name: row.networks for row in table.rows}
    for row in table.rows:
        for network, alone in row.against.items():
            (network_alone,) = networks[alone]
            for seed in seeds:
                yield Pair(network, (row.name, seed), (alone, seed), network_alone)


def compare(table: Table, records: Records, references: References) -> None:
    """Compare every pair whose runs are recorded, and write the comparison into the record of the run by ATS.

    Skips what is compared already, a network whose hypotheses are missing, and one that was scored against other
    references.
    """
    runs = records.read()
    for pair in pairs(table, tuple(sorted({seed for _, seed in runs}))):
        scores = pair.scores(runs)
        if scores is None or pair.comparison(runs) is not None:
            continue
        if any(score["references_sha256"] != references.digest for score in scores):
            continue
        ats = records.hypotheses(runs[pair.ats], pair.network)
        alone = records.hypotheses(runs[pair.alone], pair.network_alone)
        if ats is None or alone is None:
            continue
        difference, p_value, signature = paired_bootstrap(ats, alone, references)
        scores[0]["comparison"] = {
            "against": pair.alone[0],
            "difference": difference,
            "p_value": p_value,
            "signature": signature,
            "hypotheses_sha256": _digests(scores),
        }
        records.write(runs[pair.ats])


def paired_bootstrap(ats: list[str], alone: list[str], references: References) -> tuple[float, float, str]:
    """Return the first text's BLEU minus the second's, the p-value, and sacreBLEU's signature.

    Koehn (2004), as sacreBLEU does it: 1,000 resamples of the test set, sacreBLEU's seed. The p-value is the share of
    resamples whose absolute difference exceeds the mean one by more than the difference itself
    (sacrebleu/significance.py, _paired_bs_test), which for a large difference is a test of one side.
    """
    test = PairedTest([("alone", alone), ("ats", ats)], {"BLEU": references.metric()}, [references.lines], "bs", 1000)
    signatures, scores = test()
    baseline, other = scores["BLEU"]
    return other.score - baseline.score, other.p_value, str(signatures["BLEU"])


def _digests(scores: tuple[dict[str, Any], dict[str, Any]]) -> list[str]:
    return [score["hypotheses_sha256"] for score in scores]
