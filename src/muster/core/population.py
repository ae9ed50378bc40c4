"""Who the clients are (`Population`) and which of them can take work at an instant (`Candidates`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .tables import Ids


@dataclass(frozen=True)
class Population:
    """Facts about clients, a column each; a client is a row. Columns may be memory-mapped."""

    num_examples: npt.NDArray[np.int32]  # [C]
    ms_per_example: npt.NDArray[np.float32]  # [C], forward pass of one example
    down_kbps: npt.NDArray[np.float32]  # [C]
    up_kbps: npt.NDArray[np.float32]  # [C]

    @property
    def num_clients(self) -> int:
        """C, the number of rows."""
        return len(self.num_examples)


class Candidates(Protocol):
    """The clients that are present at an instant. A view: it never lists everybody."""

    @property
    def num_clients(self) -> int:
        """Size of the population, the absent included."""
        ...

    def sample(self, k: int, rng: np.random.Generator, but: Ids) -> Ids:
        """Up to `k` distinct present clients in random order, none of them in `but`."""
        ...

    def among(self, ids: Ids) -> Ids:
        """Those of `ids` that are present, in the order given."""
        ...

    def when(self, n: int, but: Ids) -> int | None:
        """First instant (ns) at which `n` clients outside `but` are present; None: never."""
        ...


@dataclass(frozen=True)
class Everyone:
    """Candidates of a world in which every client is always present."""

    num_clients: int
    now_ns: int

    def sample(self, k: int, rng: np.random.Generator, but: Ids) -> Ids:
        """Uniform without replacement, in time and memory that grow with k + len(but) only."""
        wanted = min(self.num_clients, k + len(but))
        drawn = rng.choice(self.num_clients, wanted, replace=False)
        return drawn[~np.isin(drawn, but)][:k] if len(but) else drawn[:k]

    def among(self, ids: Ids) -> Ids:
        """All of them."""
        return ids

    def when(self, n: int, but: Ids) -> int | None:
        """Now, if there are enough clients at all."""
        return self.now_ns if n <= self.num_clients - len(but) else None


@dataclass(frozen=True)
class Free:
    """What a select sees: the candidates less the busy ones."""

    present: Candidates
    busy: Ids

    @property
    def num_clients(self) -> int:
        """Size of the population, the busy and absent included."""
        return self.present.num_clients

    def sample(self, k: int, rng: np.random.Generator) -> Ids:
        """Up to `k` distinct clients that are present and free, in random order."""
        return self.present.sample(k, rng, self.busy)

    def among(self, ids: Ids) -> Ids:
        """Those of `ids` that are present and free, in the order given."""
        return self.present.among(ids[~np.isin(ids, self.busy)])

    def when(self, n: int) -> int | None:
        """First instant (ns) at which `n` clients are present and not busy now; None: never."""
        return self.present.when(n, self.busy)
