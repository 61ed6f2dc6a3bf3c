"""The layers of a decoder on packed rows: compiled, and computed again in backward."""

from dgpo_cli.policy.layers.wrap import Layers

__all__ = ["Layers"]
