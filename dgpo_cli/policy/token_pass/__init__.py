"""Token statistics from final hidden states and heads, in memory that does not grow with N or V.

`token_pass` gives every number that DGPO needs of a token, the log-probabilities with a gradient
where one is asked for; `token_logprobs` the log-probabilities alone. Both walk over tiles of
tokens and vocabulary in the same way, so that their log-probabilities agree bit for bit on the
same input, and so do their gradients.
"""

from dgpo_cli.policy.token_pass.logprobs import token_logprobs
from dgpo_cli.policy.token_pass.moments import Moments
from dgpo_cli.policy.token_pass.statistics import TokenColumns, token_pass
from dgpo_cli.policy.token_pass.tiles import Tiles

__all__ = ["Moments", "Tiles", "TokenColumns", "token_logprobs", "token_pass"]
