# SPDX-License-Identifier: Apache-2.0
"""The methods of the comparison: ours, Torch-Pruning's, and training the narrow network from scratch."""

from __future__ import annotations

from typing import Any

from edgepress.benchmarks.experiments.peers.torch_pruning import Ranking

#: Ours: name -> what differs from the settings that all share.
OURS: dict[str, dict[str, Any]] = {
    "gradual l2": {"method": "gradual", "projection": "threshold", "importance": "l2"},
    "gradual fisher": {"method": "gradual", "projection": "threshold", "importance": "fisher"},
    "gradual fisher knapsack": {"method": "gradual", "projection": "knapsack", "importance": "fisher"},
    "admm distance": {"method": "admm", "projection": "knapsack", "importance": "distance"},
    "admm fisher-distance": {"method": "admm", "projection": "knapsack", "importance": "fisher-distance"},
    "admm fisher": {"method": "admm", "projection": "threshold", "importance": "fisher"},
    "one-shot fisher": {"method": "one-shot", "projection": "threshold", "importance": "fisher"},
}
#: What `compress prune` and a recipe do with data and without being told.
DEFAULT = "gradual fisher"
#: Theirs: (how it ranks, whether it trains between milestones).
PEERS: dict[str, tuple[Ranking, bool]] = {
    f"TP {scope} {importance}{how}": (Ranking(importance, scope, filled=filled), trained)
    for scope in ("local", "global", "isomorphic")
    for importance in ("l2", "taylor")
    for how, trained, filled in ((" one-shot", False, False), ("", True, False), (" filled", True, True))
}
#: The narrow network with fresh weights; with the steps of the dense network's training added, too.
SCRATCH = {"from scratch": False, "from scratch, dense steps added": True}
METHODS = (*OURS, *PEERS, *SCRATCH)
KINDS: dict[str, tuple[str, ...]] = {"ours": tuple(OURS), "theirs": tuple(PEERS), "scratch": tuple(SCRATCH)}
#: Milestones of Torch-Pruning's loop between which it trains.
MILESTONES = 4
