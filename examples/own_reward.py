"""Three reward functions of one's own, and what they make of a model's completions.

    dgpo train --preset tiny --set reward.kind=python --set reward.path=examples/own_reward.py:steps

Run as a script, it samples from the model that ships with dgpo and scores: no GPU, no network, a
few seconds. examples/two_rewards.toml trains with one of them beside the checker of answers.
"""

# --8<-- [start:one]
import re

from dgpo_cli import RewardCompletion

STEP = re.compile(r"(\d+)([-+*])(\d+)=(\d+)")


def steps(completion: RewardCompletion) -> float | None:
    """Return the share of the written steps, as in 12+7=19, that are right; None without any."""
    found = STEP.findall(completion.text)
    if not found:
        return None  # this term does not apply
    right = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    good = [right[sign](int(a), int(b)) == int(c) for a, sign, b, c in found]
    return sum(good) / len(good)


# --8<-- [end:one]


# --8<-- [start:batch]
def close(
    completions: list[RewardCompletion], answer: list[str]
) -> list[tuple[float, str, str | None]]:
    """Return 1 for the answer, less the further from it, with an outcome and a note."""
    scores: list[tuple[float, str, str | None]] = []
    for completion, gold in zip(completions, answer, strict=True):
        said = re.findall(r"\d+", completion.text)
        if not said:
            scores.append((0.0, "no_answer", None))
            continue
        off = abs(int(said[-1]) - int(gold))
        scores.append((1 / (1 + off), "correct" if off == 0 else "wrong", f"off by {off}"))
    return scores


# --8<-- [end:batch]


# --8<-- [start:group]
def shortest(completions: list[RewardCompletion]) -> list[bool]:
    """Say which completions are the shortest of their group; needs group = true."""
    lengths = [len(completion.token_ids) for completion in completions]
    return [length == min(lengths) for length in lengths]


# --8<-- [end:group]


def main() -> None:
    # --8<-- [start:run]
    from dgpo_cli import Message, Prompt, load_settings, sampling_engine

    settings = load_settings(
        overrides={
            "reward.kind": "terms",
            "reward.terms": [
                {"kind": "python", "path": f"{__file__}:close"},
                {"kind": "python", "path": f"{__file__}:steps", "weight": 0.2},
                {"kind": "python", "path": f"{__file__}:shortest", "weight": 0.1, "group": True},
            ],
            "reward.workers": 1,
            "rollout.max_completion_tokens": 64,
            "model.path": "embedded:tiny",
            "model.device": "cpu",
        }
    )
    sums = {"(81-19)*4?": "248", "(9*14)-60?": "66"}
    prompts = [
        Prompt(id=text, messages=(Message("user", text),), answer=answer, source="examples")
        for text, answer in sums.items()
    ]
    with sampling_engine(settings) as engine:
        groups = engine.score(engine.sample(prompts, seeds=[range(4)] * 2))
    for group in groups:
        for completion, verdict in zip(group.completions, group.verdicts, strict=True):
            terms = "  ".join(f"{name} {value:.2f}" for name, value in verdict.terms)
            print(f"{verdict.reward:.2f}  {verdict.outcome:<9}  {terms}  {completion.text}")
    # --8<-- [end:run]


if __name__ == "__main__":
    main()
