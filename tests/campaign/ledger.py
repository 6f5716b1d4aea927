"""What became of each attack: how many were tried, how many survived and how, and which were lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Ledger:
    """The count of one kind of attack.

    Attributes:
        kind: Its name.
        survived: How often by what happened, such as "refused in one sentence".
        losses: One line for each attack that was lost: what was done, and what came of it.
        seconds: Wall time of all of them.
        about: Other facts, for the record.
    """

    kind: str
    survived: Counter[str] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)
    seconds: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def tried(self) -> int:
        """All attacks."""
        return sum(self.survived.values()) + len(self.losses)

    def note(self, what: str, outcome: str, fault: str = "") -> None:
        """Count an attack.

        Args:
            what: It in words, enough to make it again.
            outcome: What happened, if that was right.
            fault: What was wrong; empty where nothing was.
        """
        if fault:
            self.losses.append(" ".join(f"{what}: {fault}".split())[:600])
        else:
            self.survived[outcome] += 1

    def add(self, other: Ledger) -> None:
        """Count those of another part of the same kind, too."""
        self.survived += other.survived
        self.losses += other.losses

    def figures(self) -> dict[str, Any]:
        """What is kept in data/results."""
        counts = {"tried": self.tried, "survived": self.survived.total(), "lost": len(self.losses)}
        return counts | {"how": dict(self.survived.most_common())} | self.about | {"seconds": round(self.seconds)}

    def line(self) -> str:
        """What is printed."""
        how = ", ".join(f"{n} {what}" for what, n in self.survived.most_common())
        counts = f"{self.tried:6} {self.survived.total():9} {len(self.losses):5} {self.seconds:6.0f} s"
        return f"{self.kind:22}{counts}   {how}"

    def as_json(self) -> dict[str, Any]:
        """The ledger, ready for JSON; see `from_json`."""
        return vars(self) | {"survived": dict(self.survived)}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Ledger:
        """What `as_json` gave, as a ledger again."""
        return cls(**{**found, "survived": Counter(found["survived"])})


HEAD = f"{'kind':22}{'tried':>6} {'survived':>9} {'lost':>5} {'time':>8}   how they survived"
