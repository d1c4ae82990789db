"""What a hunt finds: the outcome of one net, and the report of all."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Outcome:
    """How one net fared.

    Attributes:
        seed: of the net.
        kind: ok, discarded (no test), refused (not compiled or not run), mismatch, faint (rounding alone), crash.
        reason: why it was discarded or refused.
        detail: of a mismatch or a refusal.
        queries: compared.
        still: whether no query moved an output.
        frontiers: why windows ended.
        windowed: by operator, nodes in windows and all nodes.
    """

    seed: int
    kind: str = "ok"
    reason: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    queries: int = 0
    still: bool = False
    frontiers: list[str] = field(default_factory=list)
    windowed: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass
class Report:
    """What a hunt found.

    Attributes:
        graphs: nets that were compared, with all their queries.
        queries: queries that were compared.
        discarded: nets that ONNX Runtime does not run, or not to finite numbers, by reason.
        still: nets of which no query moved an output.
        refused: seeds that did not compile or run, by message.
        mismatches: seed, output, share of what is allowed, error, and operators of the net.
        faint: seeds that disagree in outputs which are rounding errors alone.
        crashes: seeds of which the process died or hung.
        windowed: by operator, image-dependent nodes with maps that ran in windows, and all of them.
        frontiers: why windows ended, by reason.
    """

    graphs: int = 0
    queries: int = 0
    discarded: Counter[str] = field(default_factory=Counter)
    still: int = 0
    refused: dict[str, list[int]] = field(default_factory=dict)
    mismatches: list[dict[str, Any]] = field(default_factory=list)
    faint: list[int] = field(default_factory=list)
    crashes: list[int] = field(default_factory=list)
    windowed: dict[str, list[int]] = field(default_factory=dict)
    frontiers: Counter[str] = field(default_factory=Counter)
    next_seed: int = 0
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count one more seed."""
        self.next_seed = max(self.next_seed, outcome.seed + 1)
        match outcome.kind:
            case "discarded":
                self.discarded[outcome.reason] += 1
                return
            case "crash":
                self.crashes.append(outcome.seed)
                return
            case "refused":
                self.refused.setdefault(outcome.reason, []).append(outcome.seed)
                return
            case "mismatch":
                self.mismatches.append({"seed": outcome.seed, **outcome.detail})
            case "faint":
                self.faint.append(outcome.seed)
            case _:
                pass
        self.graphs += 1
        self.queries += outcome.queries
        self.still += outcome.still
        self.frontiers.update(outcome.frontiers)
        for operator, (windowed, total) in outcome.windowed.items():
            known = self.windowed.setdefault(operator, [0, 0])
            known[0] += windowed
            known[1] += total

    def summary(self) -> dict[str, Any]:
        """All of it and the shares, for JSON."""
        windowed, total = (sum(counts[i] for counts in self.windowed.values()) for i in (0, 1))
        shares = {k: f"{a}/{b}" for k, (a, b) in sorted(self.windowed.items(), key=lambda kv: -kv[1][1])}
        return {
            **vars(self),
            "windowed": shares,
            "windowed_share": round(windowed / max(total, 1), 4),
            "refused_count": sum(len(seeds) for seeds in self.refused.values()),
            "ms_per_graph": round(1000 * self.seconds / max(self.graphs, 1), 1),
        }
