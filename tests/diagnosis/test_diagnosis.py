"""Diagnoses on histories written out by hand: edges, windows, and what explains what."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from dgpo_cli.diagnosis.diagnose import diagnose
from dgpo_cli.diagnosis.facts import Facts, TermFacts, UnreadExample
from dgpo_cli.diagnosis.history import FIRST, LAST, WINDOW, History, Line

FACTS = Facts(
    prompts_per_step=16,
    group_size=16,
    max_completion_tokens=64,
    temperature=1.0,
    dynamic_sampling=False,
    extract="boxed",
    template="{problem}",
    timeout_s=5.0,
    workers=4,
    lr=1e-6,
    warmup_steps=0,
    total_steps=100,
    max_grad_norm=1.0,
    updates_per_step=1,
    clip_high=0.28,
    kl=0.0,
    has_adapter=False,
    dtype="float32",
    logprob_tolerance=2e-4,
    correction="none",
)
HEALTHY: dict[str, float | None] = {
    "reward/mean": 0.5,
    "outcome/correct": 0.5,
    "outcome/wrong": 0.5,
    "outcome/truncated": 0.0,
    "outcome/no_answer": 0.0,
    "outcome/out_of_range": 0.0,
    "outcome/timeout": 0.0,
    "outcome/crash": 0.0,
    "groups/no_signal": 0.2,
    "groups/all_correct": 0.1,
    "groups/none_correct": 0.1,
    "completion/length_mean": 500.0,
    "policy/entropy": 0.3,
    "policy/hellinger_sq_mean": 1e-3,
    "loss/signal_tokens": 4000.0,
    "loss/ratio_min": 0.9,
    "loss/ratio_max": 1.1,
    "loss/clip_frac": 0.001,
    "optim/grad_norm": 0.3,
    "optim/updates": 1.0,
    "optim/skipped_nonfinite": 0.0,
    "sampler/logprob_gap_mean": 1e-6,
    "sampler/k3": 1e-11,
}


def run(steps: int, *, first: int = 1, **changed: float | None) -> list[Line]:
    """Steps that are well but for `changed`, whose names have `__` for the slash."""
    other = {name.replace("__", "/"): value for name, value in changed.items()}
    return [{"step": float(first + i), **HEALTHY, **other} for i in range(steps)]


def keys(lines: list[Line], facts: Facts = FACTS) -> list[str]:
    return [each.key for each in diagnose(lines, facts=facts)]


FAULTS: dict[str, dict[str, float | None]] = {
    "nonfinite": {"optim__skipped_nonfinite": 1.0, "loss__value": None},
    "sampler_disagrees": {"sampler__logprob_gap_mean": 0.01},
    "ratio_exploding": {"loss__ratio_max": 40.0, "loss__clip_frac": 0.2},
    "reward_fails": {"reward__unscored": 0.2, "outcome__error": 0.2, "outcome__wrong": 0.3},
    "verifier_timeout": {"outcome__timeout": 0.2, "outcome__wrong": 0.3},
    "truncated": {"outcome__truncated": 0.95, "outcome__wrong": 0.05, "outcome__correct": 0.0},
    "no_answer": {"outcome__no_answer": 0.95, "outcome__wrong": 0.05, "outcome__correct": 0.0},
    "too_easy": {"groups__all_correct": 0.95, "outcome__correct": 0.99},
    "too_hard": {"groups__none_correct": 0.95, "outcome__wrong": 0.99, "outcome__correct": 0.01},
    "no_signal": {"groups__no_signal": 1.0, "loss__signal_tokens": 0.0},
}


def test_a_healthy_history_raises_none_at_any_length() -> None:
    lines = [{**line, "outcome/correct": 0.5 + 0.003 * i} for i, line in enumerate(run(100))]
    assert [keys(lines[:n]) for n in range(101)] == [[]] * 101


@pytest.mark.parametrize("key", FAULTS)
def test_a_fault_of_every_step_is_found_alone(key: str) -> None:
    found = diagnose(run(8, **FAULTS[key]), facts=FACTS)
    assert [each.key for each in found] == [key]
    assert found[0].step == 8


@pytest.mark.parametrize("key", [key for key in FAULTS if key != "nonfinite"])
def test_a_fault_of_one_step_or_two_is_none(key: str) -> None:
    """After a run that was well; and a single step proves nothing, whatever it says."""
    assert keys(run(20) + run(2, first=21, **FAULTS[key])) == []
    assert keys(run(1, **FAULTS[key])) == []


@pytest.mark.parametrize("key", FAULTS)
def test_a_fault_that_is_over_is_not_told(key: str) -> None:
    start = run(8, **FAULTS[key])
    assert keys(start + run(4 * WINDOW + 1, first=9)) == []


def test_one_skipped_step_is_told_when_it_happens_and_is_no_diagnosis() -> None:
    skipped = run(1, first=10, optim__skipped_nonfinite=1.0)
    assert keys(run(9) + skipped) == []
    assert keys(run(8) + run(2, first=9, optim__skipped_nonfinite=1.0)) == ["nonfinite"]


def test_a_run_that_died_of_it_in_its_first_steps_says_so() -> None:
    assert keys(run(3, optim__skipped_nonfinite=1.0)) == ["nonfinite"]


@pytest.mark.parametrize("unknown", [None, math.nan])
@pytest.mark.parametrize("name", HEALTHY)
def test_a_metric_that_is_unknown_raises_nothing(name: str, unknown: float | None) -> None:
    assert keys([{**line, name: unknown} for line in run(30)]) == []
    missing = [{k: v for k, v in line.items() if k != name} for line in run(30)]
    assert keys(missing) == []


def test_nothing_known_at_all_raises_nothing() -> None:
    assert keys([]) == []
    assert keys([{"step": float(n)} for n in range(1, 30)]) == []


def test_lines_that_are_no_training_step_do_not_count() -> None:
    evaluation: Line = {"step": 4.0, "eval/avg_at_k": 0.3}
    faulty = run(8, **FAULTS["truncated"])
    mixed = [line for step in faulty for line in (step, evaluation)]
    assert diagnose(mixed, facts=FACTS) == diagnose(faulty, facts=FACTS)


def test_steps_that_are_missing_between_do_no_harm() -> None:
    whole = run(48, **FAULTS["no_answer"])
    gaps = [line for line in whole if line["step"] not in (2.0, 7.0, 8.0, 20.0, 44.0)]
    (found,) = diagnose(gaps, facts=FACTS)
    assert found.key == "no_answer" and "steps 43 to 48" in found.evidence
    assert keys(whole) == ["no_answer"]


@pytest.mark.parametrize("key", FAULTS)
def test_both_ends_of_a_history_say_all_of_it(key: str) -> None:
    rng = random.Random(1)
    noisy: list[Line] = [
        {**line, "policy/entropy": 0.3 * math.exp(rng.gauss(0, 0.2))}
        for line in run(300) + run(30, first=301, **FAULTS[key])
    ]
    ends = [*noisy[:FIRST], *noisy[-LAST:]]
    assert diagnose(ends, facts=FACTS) == diagnose(noisy, facts=FACTS) != ()


def test_few_groups_need_more_steps() -> None:
    """Five steps of one group without signal are an accident; twenty are not."""
    one = replace(FACTS, prompts_per_step=1)
    fault = FAULTS["no_signal"]
    assert keys(run(19, **fault), one) == []
    assert keys(run(20, **fault), one) == ["no_signal"]
    assert keys(run(5, **fault)) == ["no_signal"]
    for kl, words in ((0.0, "the weights do not move"), (0.04, "only the KL term moves")):
        [found] = diagnose(run(20, **fault), facts=replace(FACTS, kl=kl))
        assert words in found.headline


def test_the_groups_of_dynamic_sampling_are_counted() -> None:
    drawn = History(run(3, dynamic__groups_sampled=48.0), prompts_per_step=16)
    assert drawn.groups(drawn.last) == 3 * 48
    assert History(run(3), prompts_per_step=16).groups(drawn.last[:0]) == 0


def test_with_dynamic_sampling_it_is_what_was_trained_on_that_counts() -> None:
    dynamic = replace(FACTS, dynamic_sampling=True)
    busy = run(8, groups__no_signal=0.9, dynamic__groups_sampled=160.0)
    assert keys(busy, dynamic) == []
    idle = run(8, groups__no_signal=0.97, dynamic__groups_sampled=160.0, loss__signal_tokens=0.0)
    (found,) = diagnose(idle, facts=dynamic)
    assert found.key == "no_signal" and "dynamic_sampling=true" not in found.advice


def ramp(start: float, end: float, *, steps: int, name: str, **changed: float | None) -> list[Line]:
    """A metric that moves on a logarithmic scale from step to step."""
    return [
        {**line, name: start * (end / start) ** (i / (steps - 1))}
        for i, line in enumerate(run(steps, **changed))
    ]


STUCK = {"outcome__correct": 0.6, "outcome__wrong": 0.4, "groups__none_correct": 0.38}


def test_entropy_that_is_gone_while_answers_stay_wrong_has_collapsed() -> None:
    lines = ramp(0.3, 0.003, steps=40, name="policy/entropy", **STUCK)
    assert keys(lines) == ["entropy_collapsed"]


@pytest.mark.parametrize(
    "changed",
    [
        {"outcome__correct": 0.95, "outcome__wrong": 0.05, "groups__none_correct": 0.04},  # learnt
        {**STUCK, "groups__none_correct": 0.1},  # right and wrong answers to the same prompts
    ],
)
def test_entropy_may_fall_where_the_policy_learns_or_can(changed: dict[str, float]) -> None:
    assert keys(ramp(0.3, 0.003, steps=40, name="policy/entropy", **changed)) == []


def test_entropy_may_fall_while_the_reward_rises() -> None:
    lines = ramp(0.3, 0.003, steps=40, name="policy/entropy", **STUCK)
    rising = [{**line, "reward/mean": 0.2 + 0.01 * i} for i, line in enumerate(lines)]
    assert keys(rising) == []


def test_entropy_is_held_against_its_own_start_and_no_constant() -> None:
    """A model that is sure from the beginning has collapsed no more than one that never is."""
    low = run(40, policy__entropy=1e-4, **STUCK)
    high = ramp(3.0, 1.0, steps=40, name="policy/entropy", **STUCK)
    assert keys(low) == keys(high) == []
    assert keys(ramp(3.0, 0.1, steps=40, name="policy/entropy", **STUCK)) == ["entropy_collapsed"]


def test_entropy_that_jumps_about_has_not_collapsed() -> None:
    rng = random.Random(0)
    tail = [
        {**line, "policy/entropy": 0.05 * math.exp(rng.choice((-2.0, 2.0)))}
        for line in run(30, first=11, **STUCK)
    ]
    assert keys(run(10, **STUCK) + tail) == []


def test_answers_that_are_lost_are_told_with_both_shares() -> None:
    lines = run(5) + run(10, first=6, outcome__correct=0.1, outcome__wrong=0.9)
    (found,) = diagnose(lines, facts=FACTS)
    assert found.key == "reward_fell"
    assert "50% of the answers" in found.evidence and "10% in steps 11 to 15" in found.evidence
    assert "--set optim.lr=1e-07" in found.advice


def test_a_fall_that_few_groups_may_show_by_chance_is_none() -> None:
    few = replace(FACTS, prompts_per_step=2)
    lines = run(1) + run(10, first=2, outcome__correct=0.05, outcome__wrong=0.95)
    assert keys(lines, few) == []
    assert keys(lines) == ["reward_fell"]


def test_one_update_that_broke_the_policy_is_the_cause_of_all_that_follows() -> None:
    first = run(1, loss__ratio_max=14.0, loss__ratio_min=1e-6, loss__clip_frac=0.08)
    broken = run(
        9, first=2, outcome__correct=0.0, outcome__wrong=0.1, outcome__truncated=0.9,
        groups__no_signal=1.0, groups__none_correct=1.0, loss__signal_tokens=0.0,
    )  # fmt: skip
    assert keys(first + broken) == ["ratio_exploding"]
    assert keys(run(1) + broken) == ["reward_fell"]


def test_a_single_token_far_off_is_no_explosion() -> None:
    assert keys(run(30, loss__ratio_max=1000.0, loss__clip_frac=1e-4)) == []


@pytest.mark.parametrize(("norm", "found"), [(5.0, ["grad_clipped"]), (1.5, []), (0.9, [])])
def test_a_gradient_is_clipped_too_much_at_twice_the_limit(norm: float, found: list[str]) -> None:
    assert keys(run(10, optim__grad_norm=norm)) == found
    assert keys(run(10, optim__grad_norm=norm), replace(FACTS, max_grad_norm=0.0)) == []


def test_one_gradient_within_the_limit_is_enough_to_say_nothing() -> None:
    lines = run(9, optim__grad_norm=5.0) + run(1, first=10, optim__grad_norm=0.9)
    assert keys(lines) == []
    # A step without signal has no gradient: it neither proves nor disproves.
    idle = run(9, optim__grad_norm=5.0) + run(1, first=10, optim__grad_norm=0.0)
    assert keys(idle + run(1, first=11, optim__grad_norm=5.0)) == ["grad_clipped"]


def test_the_sampler_is_held_to_the_rounding_of_its_dtype() -> None:
    lines = run(8, sampler__logprob_gap_mean=0.04, sampler__k3=2e-3)
    assert keys(lines) == ["sampler_disagrees"]
    assert keys(lines, replace(FACTS, dtype="bfloat16", logprob_tolerance=0.12)) == []
    heavy = run(8, sampler__k3=1e-5)  # a small mean gap with a few tokens far apart
    assert keys(heavy) == ["sampler_disagrees"]


def test_weights_of_few_tokens_are_a_disagreement_too() -> None:
    token = replace(FACTS, correction="token", logprob_tolerance=0.12)
    lines = run(8, off_policy__ess=0.2)
    assert keys(lines, token) == ["sampler_disagrees"]
    assert keys(lines, replace(token, correction="sequence")) == []
    assert keys(run(8, off_policy__ess=0.95), token) == []


def test_most_without_an_answer_are_left_to_learn_the_form_while_they_do() -> None:
    flat = run(20, outcome__no_answer=0.7, outcome__correct=0.1, outcome__wrong=0.2)
    assert keys(flat) == ["no_answer"]
    rising = [{**line, "reward/mean": 0.1 + 0.01 * i} for i, line in enumerate(flat)]
    assert keys(rising) == []


def test_an_example_is_looked_for_only_where_it_is_needed() -> None:
    looked = []

    def find() -> UnreadExample:
        looked.append(1)
        return UnreadExample(ending="so it is \x1b[31m7", readable_as="last-number")

    diagnose(run(8), facts=FACTS, find_unread=find)
    assert looked == []
    (found,) = diagnose(run(8, **FAULTS["no_answer"]), facts=FACTS, find_unread=find)
    assert "one ends: so it is \x1b[31m7" in found.evidence
    assert found.advice.startswith("--set reward.extract=last-number")


def test_thoughts_without_an_end_are_told_as_what_keeps_answers_from_being_read() -> None:
    unread = UnreadExample(ending="so it is 7", readable_as=None, in_thought=True)
    (found,) = diagnose(run(8, **FAULTS["no_answer"]), facts=FACTS, find_unread=lambda: unread)
    assert "most end inside a thought; one ends: so it is 7" in found.evidence
    assert "a chat template that does not open one" in found.advice
    other = replace(unread, in_thought=False)
    (found,) = diagnose(run(8, **FAULTS["no_answer"]), facts=FACTS, find_unread=lambda: other)
    assert "thought" not in found.evidence + found.advice


def test_completions_that_grew_into_the_limit_are_told_apart_from_those_that_never_fitted() -> None:
    fault = FAULTS["truncated"]
    never = diagnose(run(8, **fault), facts=FACTS)
    grew = diagnose(
        run(5, **fault | {"outcome__truncated": 0.05}) + run(9, first=6, **fault), facts=FACTS
    )
    assert never[0].advice.startswith("--set rollout.max_completion_tokens=128:")
    assert grew[0].advice.startswith("--set reward.overlong.buffer_tokens=12:")


def test_verdicts_that_mostly_run_out_of_time_are_told_after_two_steps_with_their_cost() -> None:
    """192 of 256 completions, 5 s each, 4 workers: 240 s of every step."""
    late = {"outcome__timeout": 0.75, "outcome__wrong": 0.25, "outcome__correct": 0.0}
    assert keys(run(1, **late)) == []
    (found,) = diagnose(run(2, **late), facts=FACTS)
    assert found.key == "verifier_timeout"
    assert "75% of the checks exceeded reward.timeout_s=5" in found.evidence
    assert "192 of 256 per step cost about 4 min 0 s of every step" in found.evidence
    assert "reward.workers=4" in found.evidence
    assert keys(run(20) + run(2, first=21, **late)) == ["verifier_timeout"]
    assert keys(run(20) + run(1, first=21, **late)) == []


def test_a_reward_that_always_fails_is_told_after_two_steps_though_no_reward_is_known() -> None:
    broken = {"reward__unscored": 1.0, "reward__mean": None, "outcome__error": 1.0}
    (found,) = diagnose(run(2, **broken), facts=FACTS)
    assert found.key == "reward_fails" and "100% by errors, 0% by timeouts" in found.evidence
    assert "their note has the message" in found.advice
    late = {"reward__unscored": 0.6, "outcome__timeout": 0.5, "outcome__error": 0.1}
    (found,) = diagnose(run(2, **late), facts=FACTS)
    assert found.key == "reward_fails" and found.advice.startswith(
        "raise the timeout_s that is exceeded"
    )
    assert keys(run(2, reward__unscored=0.2)) == keys(run(8, reward__unscored=0.0)) == []


def test_crashes_are_not_mended_with_time() -> None:
    (found,) = diagnose(run(8, outcome__crash=0.2, outcome__wrong=0.3), facts=FACTS)
    assert found.key == "verifier_timeout" and "timeout_s=20" not in found.advice


@pytest.mark.parametrize(
    ("template", "advice"),
    [
        ("{problem}", "--set 'prompts.template={problem} Put the answer into \\boxed{}.'"),
        ("It's {problem}", "ask for the expected form"),
        ("{problem}\nThink.", "ask for the expected form"),
    ],
)
def test_a_form_that_nothing_has_is_asked_for(template: str, advice: str) -> None:
    facts = replace(FACTS, template=template)
    (found,) = diagnose(run(8, **FAULTS["no_answer"]), facts=facts)
    assert found.advice.startswith(advice)


def test_a_failure_of_many_kinds_is_told_with_its_kinds() -> None:
    mixed = run(
        8, outcome__correct=0.0, outcome__wrong=0.3, outcome__truncated=0.4, outcome__no_answer=0.3,
        groups__none_correct=1.0, groups__all_correct=0.0, groups__no_signal=1.0,
    )  # fmt: skip
    (found,) = diagnose(mixed, facts=FACTS)
    assert found.key == "no_signal"
    assert "30% wrong, 40% truncated, 30% without an answer" in found.evidence


def test_steps_without_a_number_are_counted() -> None:
    lines = [
        {k: v for k, v in line.items() if k != "step"} for line in run(8, **FAULTS["too_easy"])
    ]
    (found,) = diagnose(lines, facts=FACTS)
    assert (found.key, found.step) == ("too_easy", 8)


ZERO: dict[str, float | None] = {
    "reward__mean": 0.0,
    "outcome__correct": 0.0,
    "outcome__wrong": 1.0,
}


def test_two_steps_without_reward_name_a_template_for_other_problems() -> None:
    asked = "Compute {problem} Write only the answer."
    facts = replace(FACTS, template=asked, template_owner="smollm2-lora")
    assert keys(run(1, **ZERO), facts) == []
    (found,) = diagnose(run(2, **ZERO), facts=facts)
    assert found.key == "foreign_template" and found.step == 2
    assert asked in found.evidence and "smollm2-lora" in found.evidence
    assert found.advice.startswith("--set 'prompts.template={problem}'")
    # It explains what would be told of the answers, once there are enough steps.
    assert keys(run(8, **ZERO), facts) == ["foreign_template"]
    assert keys(run(2), facts) == []
    assert keys([*run(1, **ZERO), *run(1, first=2)], facts) == []


def test_a_template_for_its_own_problems_is_not_to_blame() -> None:
    assert keys(run(2, **ZERO)) == []
    # The reward of what is wrong need not be 0.
    lost = {**ZERO, "reward__mean": -1.0}
    facts = replace(FACTS, template_owner="tiny", worst=-1.0)
    assert keys(run(2, **lost), facts) == ["foreign_template"]
    some = {**lost, "reward__mean": -0.9}
    assert keys(run(2, **some), facts) == []


TERMS = (
    TermFacts("integer", "integer", 1.0, judges=True, checks=True),
    TermFacts("style", "python", 0.1, judges=True, checks=False),
    TermFacts("length", "length", 1.0, judges=False, checks=False),
)


def of_terms(*, spread: float, decides: tuple[float, float, float]) -> list[Line]:
    """Steps in which the style varies by `spread` and the terms decide these shares of groups."""
    shares = {
        f"reward__{term.name}_decides": share for term, share in zip(TERMS, decides, strict=True)
    }
    others = {"reward__integer_std": 0.5, "reward__length_std": 0.0, "reward__style_mean": 0.25}
    return run(8, **shares, **others, reward__style_std=spread)


def test_a_term_that_never_varied_is_named_and_a_penalty_that_is_0_is_not() -> None:
    lines = of_terms(spread=0.0, decides=(0.8, 0.0, 0.0))
    (found,) = diagnose(lines, facts=replace(FACTS, terms=TERMS))
    assert found.key == "term_constant" and "is 0.25" in found.evidence
    assert found.advice.startswith("--set reward.terms.style=:")
    assert diagnose(lines, facts=FACTS) == ()
    varied = [*of_terms(spread=0.1, decides=(0.8, 0.1, 0.0)), *lines]  # a style that is learnt
    assert keys(varied, replace(FACTS, terms=TERMS)) == []


def test_a_term_that_decides_no_group_is_named_unless_each_is_normalised() -> None:
    lines = of_terms(spread=0.3, decides=(0.8, 0.0, 0.0))
    facts = replace(FACTS, terms=TERMS)
    (found,) = diagnose(lines, facts=facts)
    assert found.key == "term_idle" and "style.weight=0.1" in found.evidence
    assert keys(lines, replace(facts, terms_summed=False)) == []
    assert keys(of_terms(spread=0.3, decides=(0.8, 0.02, 0.0)), facts) == []


def test_a_length_that_decides_more_than_the_answer_is_named() -> None:
    facts = replace(FACTS, terms=TERMS)
    (found,) = diagnose(of_terms(spread=0.3, decides=(0.2, 0.0, 0.7)), facts=facts)
    assert found.key == "length_outweighs" and "70% of the groups" in found.evidence
    assert found.advice.startswith("--set reward.terms.length.weight=0.1")
    assert keys(of_terms(spread=0.3, decides=(0.45, 0.1, 0.45)), facts) == []
