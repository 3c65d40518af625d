"""The faults in force, and which of them hit a request."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from doitong_async.emulator.faults import Fault, What, Where, parse_fault

_BY_KIND: tuple[Where, ...] = ("submit", "poll")


@dataclass(frozen=True, slots=True)
class Hits:
    """The faults that apply to one request."""

    all: tuple[Fault, ...] = ()

    @property
    def delay(self) -> float:
        """The seconds by which the answer is delayed."""
        return sum(fault.seconds for fault in self.all if fault.what == "latency")

    @property
    def main(self) -> Fault | None:
        """The fault that is not a latency, if any."""
        return next((fault for fault in self.all if fault.what != "latency"), None)

    def __str__(self) -> str:
        return "; ".join(map(str, self.all))


class Faults:
    """The faults in force, in order, and the count of arrivals; it can change at any time."""

    def __init__(self, faults: Iterable[Fault | str] = ()) -> None:
        self._entries: list[_Entry] = []
        self._counts: Counter[Where] = Counter()
        self.extend(faults)

    def __iter__(self) -> Iterator[Fault]:
        return iter([entry.fault for entry in self._entries])

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, fault: Fault | str) -> None:
        """Add a fault after the others; counting continues from the start of the server."""
        self.extend([fault])

    def extend(self, faults: Iterable[Fault | str]) -> None:
        """Add faults: all of them, or none if one is invalid."""
        self._entries += [_Entry(_as_fault(fault)) for fault in faults]

    def remove(self, fault: Fault | str) -> None:
        """Remove the first equal fault; ValueError if there is none."""
        del self._entries[list(self).index(_as_fault(fault))]

    def clear(self) -> None:
        """Remove all faults."""
        self._entries.clear()

    def of_request(self, kind: str, without: Collection[str] = ()) -> Hits:
        """Count a request, and return the faults that apply: every latency, and one other fault."""
        wheres: list[Where] = ["output"] if kind == "output" else ["any"]
        wheres += [where for where in _BY_KIND if where == kind]
        self._counts.update(wheres)
        hits = Hits()
        for entry in self._entries:
            fault = entry.fault
            free = fault.what == "latency" or hits.main is None
            if free and fault.where in wheres and fault.what not in without:
                hits = Hits((*hits.all, *entry.take(self._counts[fault.where])))
        return hits

    def of_job(self, number: int) -> tuple[Fault, ...]:
        """Return the faults of the job with this number, from 1: one of each kind."""
        return self._one_of_each("job", number)

    def of_webhook(self) -> tuple[Fault, ...]:
        """Count a webhook, and return its faults: one of each kind."""
        self._counts["webhook"] += 1
        return self._one_of_each("webhook", self._counts["webhook"])

    def _one_of_each(self, where: Where, number: int) -> tuple[Fault, ...]:
        chosen: dict[What, Fault] = {}
        for entry in self._entries:
            fault = entry.fault
            if fault.where == where and fault.what not in chosen:
                chosen |= {hit.what: hit for hit in entry.take(number)}
        return tuple(chosen.values())


@dataclass(slots=True)
class _Entry:
    """A fault in force, and how often it applied."""

    fault: Fault
    taken: int = 0

    def take(self, number: int) -> list[Fault]:
        """Return the fault if it applies, and count that against its `times`."""
        times = self.fault.times
        if (times is not None and self.taken >= times) or not self.fault.hits(number):
            return []
        self.taken += 1
        return [self.fault]


def _as_fault(fault: Fault | str) -> Fault:
    return parse_fault(fault) if isinstance(fault, str) else fault
