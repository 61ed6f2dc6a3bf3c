"""What a rank other than the first does: build the engine, then whatever the leader calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dgpo_cli.engine.setup import training_engine

if TYPE_CHECKING:
    from dgpo_cli.engine.engine import Engine
    from dgpo_cli.parallel.ranks import Ranks

BUILD = "build"  # the first call: settings, and the checkpoint to start from


def follow(ranks: Ranks) -> None:
    """Run what the leader calls until it ends.

    Raises:
        DgpoError: a call failed; the leader cannot go on without this rank.
    """
    engine: Engine | None = None
    for name, args in ranks.calls():
        if name == BUILD:
            settings, checkpoint = args
            engine = training_engine(settings, checkpoint=checkpoint, ranks=ranks)
            continue
        assert engine is not None
        engine.calls()[name](*args)
    if engine is not None:
        with engine:  # the leader has ended its threads, and so ends those here
            engine.finish_saving()
