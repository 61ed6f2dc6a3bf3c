"""Token statistics from final hidden states and heads, in memory that does not grow with N or V.

`token_pass` computes all statistics of a token, with a gradient of the log-probabilities if one is
needed; `token_logprobs` computes only the log-probabilities. Both walk over the same tiles of
tokens and vocabulary, so that their log-probabilities and gradients agree bit for bit.
With a `Support` log-probabilities are over the part of the vocabulary that sampling keeps.
"""

from dgpo_cli.policy.token_pass.kept import Support
from dgpo_cli.policy.token_pass.moments import Moments
from dgpo_cli.policy.token_pass.statistics import (
    TokenColumns,
    token_logprobs,
    token_pass,
)
from dgpo_cli.policy.token_pass.tiles import Tiles

__all__ = [
    "Moments",
    "Support",
    "Tiles",
    "TokenColumns",
    "token_logprobs",
    "token_pass",
]
