"""Laws of sampling from an endpoint: what is survived, what ends it, and what it may cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pytest

from dgpo_cli.config.load import Resolved, resolve
from dgpo_cli.core.errors import BackendError, ConfigError, OutOfBudget
from dgpo_cli.core.events import Note, Observer, Requests
from dgpo_cli.core.types import Message, Price, Prompt, Reply
from dgpo_cli.evals import endpoint_source
from dgpo_cli.evals.endpoint_source import EndpointSource
from dgpo_cli.evals.samples import Sample
from dgpo_cli.evals.source import Drawn
from dgpo_cli.prompts.templates import begun
from dgpo_cli.samplers.endpoint import fleet
from dgpo_cli.samplers.endpoint.budget import Budget
from dgpo_cli.samplers.settings import EndpointBackend
from tests.api_server import KEY, Api, Body, Fault, draw_of, is_probe, serve, usage_of
from tests.recorder import Recorder

Ask = Callable[..., list[Drawn]]


class Notes:
    """Keeps the notes."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def on(self, event: object) -> None:
        if isinstance(event, Note):
            self.texts.append(event.text)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "_BACKOFF_S", (0.01, 0.02))
    monkeypatch.setattr(endpoint_source, "GRACE_S", 1.0)


@pytest.fixture
def api() -> Iterator[Api]:
    with serve(Api()) as api:
        yield api


def settings_of(api: Api, *overrides: str) -> Resolved:
    return resolve(
        overrides=[
            *("rollout.backend.kind=endpoint", f"rollout.backend.url={api.address}"),
            *("model.path=tiny", "rollout.max_completion_tokens=64", *overrides),
        ]
    )


def source_of(
    resolved: Resolved, *, budget: Budget | None = None, observer: Observer | None = None
) -> EndpointSource:
    backend = resolved.settings.rollout.backend
    assert isinstance(backend, EndpointBackend)
    return EndpointSource(backend, observer=observer or Notes(), budget=budget)


def problems(count: int) -> list[Prompt]:
    return [
        Prompt(f"p{n}", (Message("user", f"{n}+{n}?"),), str(2 * n), "test") for n in range(count)
    ]


def drawn(
    api: Api,
    *overrides: str,
    count: int = 8,
    budget: Budget | None = None,
    stored: list[Sample] | None = None,
    observer: Observer | None = None,
) -> list[Drawn]:
    resolved = settings_of(api, *overrides)
    source = source_of(resolved, budget=budget, observer=observer)
    wanted = iter([(prompt, 0) for prompt in problems(count)])
    drawing = source.draw(wanted, settings=resolved.settings, stored=stored or [])
    return list(chain(*drawing))


def texts(found: list[Drawn]) -> dict[str, str]:
    return {each.prompt.id: each.completion.text for each in found}


@pytest.mark.parametrize("kind", ["drop", "half", "json", "choices", "429", "500", "503", "error"])
def test_what_may_pass_is_sent_again_and_changes_no_sample(api: Api, kind: str) -> None:
    whole = texts(drawn(api))
    busy = {"error": {"message": "busy"}}
    faults = {
        "429": (429, busy, {"Retry-After": "0"}),
        "500": (500, busy, {}),
        "503": (503, busy, {}),
        "error": (200, {"error": {"message": "upstream", "code": 502}}, {}),
    }
    api.counts.clear()
    api.fault = lambda body, count: (
        None if is_probe(body) or count > draw_of(body) % 3 else faults.get(kind, kind)  # type: ignore[arg-type]
    )
    before = len(api.samples)
    assert texts(drawn(api)) == whole and len(whole) == 8
    assert len(api.samples) > before + 8


def test_a_request_that_fails_too_often_ends_it_with_the_last_reason(api: Api) -> None:
    api.fault = lambda body, count: None if is_probe(body) else (500, {"error": "on fire"}, {})
    with pytest.raises(BackendError, match=r"HTTP 500: on fire, after 3 tries"):
        drawn(api, "rollout.backend.retries=2", count=1)


def test_being_turned_away_while_others_are_answered_is_no_failure(api: Api) -> None:
    """An endpoint that takes two at a time serves 60 with 32 in flight and few retries."""
    api.most = 2
    api.delay_s = lambda body: 0.0 if is_probe(body) else 0.01
    found = drawn(api, "rollout.backend.max_in_flight=32", "rollout.backend.retries=2", count=60)
    assert len(found) == 60
    assert api.statuses[429] < 110  # about 60; three times as many without learning
    assert api.statuses[429] > 0


def test_all_wait_as_long_as_the_endpoint_asks(api: Api) -> None:
    turned_away: list[float] = []
    after: list[float] = []

    def fault(body: Body, count: int) -> tuple[int, Body, dict[str, str]] | None:
        if is_probe(body):
            return None
        if not turned_away:
            turned_away.append(time.monotonic())
            return 429, {"error": {"message": "slow down"}}, {"Retry-After": "1"}
        after.append(time.monotonic())
        return None

    api.fault = fault
    drawn(api, "rollout.backend.max_in_flight=1", count=3)
    assert len(after) == 3 and min(after) - turned_away[0] >= 0.95


def test_an_endpoint_that_asks_for_hours_ends_it(api: Api) -> None:
    api.fault = lambda body, count: (
        None if is_probe(body) else (429, {"error": "daily limit"}, {"Retry-After": "7200"})
    )
    with pytest.raises(BackendError, match=r"daily limit; it asks to wait 2\.0 h"):
        drawn(api, count=1)


def test_no_more_are_in_flight_than_allowed(api: Api) -> None:
    api.delay_s = lambda body: 0.02
    drawn(api, "rollout.backend.max_in_flight=3", count=12)
    assert api.widest == 3


def test_it_is_told_how_many_are_in_flight_and_were_sent_again(api: Api) -> None:
    """Also while nothing is answered: the second answer of p0 takes two seconds."""
    busy = {"error": {"message": "busy"}}
    api.fault = lambda body, count: (
        (429, busy, {}) if not is_probe(body) and count == 0 and "0+0" in str(body) else None
    )
    api.delay_s = lambda body: 2.2 if "0+0" in str(body) else 0.0
    told = Recorder()
    drawn(api, "rollout.backend.max_in_flight=4", count=4, observer=told)
    found = told.of(Requests)
    assert max(each.in_flight for each in found) <= 4
    assert found[-1].again == 1 and found[-1].limit in (2, 3)
    assert [each.again for each in found] == sorted(each.again for each in found)
    assert sum(each.in_flight == 1 for each in found) >= 2


def test_a_refused_prompt_ends_it_with_its_problem_named(api: Api) -> None:
    words = {"error": {"message": "This model's maximum context length is 10 tokens."}}
    api.fault = lambda body, count: (400, words, {}) if "5+5" in str(body) else None
    with pytest.raises(BackendError, match=r"problem 'p5', sample 0: .*maximum context length"):
        drawn(api)


def test_what_was_in_flight_when_it_failed_is_kept(api: Api) -> None:
    api.fault = lambda body, count: (400, {"error": "no"}, {}) if "5+5" in str(body) else None
    api.delay_s = lambda body: 0.0 if "5+5" in str(body) or is_probe(body) else 0.2
    resolved = settings_of(api)
    found: list[Drawn] = []
    wanted = iter([(prompt, 0) for prompt in problems(8)])
    with pytest.raises(BackendError):
        for some in source_of(resolved).draw(wanted, settings=resolved.settings, stored=[]):
            found += some
    assert len(found) == 7


def test_an_answer_of_the_content_filter_is_a_sample_without_an_answer(api: Api) -> None:
    words = {"error": {"message": "The response was filtered", "code": "content_filter"}}
    api.fault = lambda body, count: (400, words, {}) if "5+5" in str(body) else None
    found = {each.prompt.id: each.completion for each in drawn(api)}
    reply = found["p5"]
    assert isinstance(reply, Reply) and (reply.text, reply.finish) == ("", "content_filter")


def test_closing_cancels_and_an_interrupt_keeps_what_is_in_flight(api: Api) -> None:
    api.delay_s = lambda body: 0.0 if "0+0" in str(body) or is_probe(body) else 0.3
    resolved = settings_of(api, "rollout.backend.max_in_flight=4")

    def begun() -> tuple[EndpointSource, Iterator[list[Drawn]]]:
        source = source_of(resolved)
        wanted = iter([(prompt, 0) for prompt in problems(50)])
        return source, source.draw(wanted, settings=resolved.settings, stored=[])

    _, drawing = begun()
    assert [each.prompt.id for each in next(drawing)] == ["p0"]
    late = drawing.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    assert 3 <= len(late) <= 4  # those in flight, and no new ones
    with pytest.raises(KeyboardInterrupt):
        next(drawing)
    _, drawing = begun()
    next(drawing)
    started = time.monotonic()
    drawing.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 0.25  # it does not wait for them


def test_an_interrupt_waits_for_nothing_that_was_to_be_sent_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "_BACKOFF_S", (30.0, 30.0))
    api.fault = lambda body, count: (500, {"error": "no"}, {}) if "1+1" in str(body) else None
    resolved = settings_of(api)
    wanted = iter([(prompt, 0) for prompt in problems(4)])
    drawing = source_of(resolved).draw(wanted, settings=resolved.settings, stored=[])
    found = next(drawing)
    while len(found) < 3:
        found += next(drawing)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        drawing.throw(KeyboardInterrupt)
    assert time.monotonic() - started < 0.5


def test_wanted_is_taken_no_further_than_requests_can_begin(api: Api) -> None:
    taken: list[int] = []

    def wanted() -> Iterator[tuple[Prompt, int]]:
        for number, prompt in enumerate(problems(50)):
            taken.append(number)
            yield prompt, 0

    resolved = settings_of(api, "rollout.backend.max_in_flight=4")
    drawing = source_of(resolved).draw(wanted(), settings=resolved.settings, stored=[])
    next(drawing)
    drawing.close()
    assert len(taken) <= 4 + 2


PRICE = Price(prompt=1e6, completion=1e6)  # a token costs 1


def cost_of(api: Api) -> float:
    """What the API would bill for all its answers."""
    return sum(PRICE.of(prompt=a, completion=b) for a, b in api.billed)


@pytest.mark.parametrize("most", [130.0, 400.0, 1000.0])
@pytest.mark.parametrize("faulty", [False, True])
def test_the_cost_never_exceeds_the_limit(api: Api, most: float, faulty: bool) -> None:
    if faulty:  # answers that get lost on the way are billed
        api.fault = lambda body, count: (
            "half" if not is_probe(body) and draw_of(body) % 3 == count else None
        )
    budget = Budget(PRICE, most)
    found: list[Drawn] = []
    resolved = settings_of(api)
    wanted = iter([(prompt, 0) for prompt in problems(200)])
    drawing = source_of(resolved, budget=budget).draw(wanted, settings=resolved.settings, stored=[])
    with pytest.raises(OutOfBudget, match=f"--max-cost {most:g}: "):
        for some in drawing:
            found += some
    assert cost_of(api) <= most
    assert budget.spent <= most and budget.held == 0
    if not faulty:
        assert budget.spent == pytest.approx(cost_of(api))
        assert budget.spent > most - 64 - 200  # no more is left than a request could cost


def test_what_is_stored_counts_towards_the_limit(api: Api) -> None:
    from dgpo_cli.core.types import Verdict

    def sample(tokens: int | None) -> Sample:
        verdict = Verdict("correct", "2", 1.0)
        return Sample(*("p0", 0, tokens, 1, "2", verdict, "v", None, None, None), prompt_tokens=100)

    budget = Budget(PRICE, 500.0)
    with pytest.raises(OutOfBudget):
        drawn(api, budget=budget, stored=[sample(300)])
    assert 400 <= budget.spent <= 500
    unknown = Budget(PRICE, 150.0)
    with pytest.raises(OutOfBudget):
        drawn(api, budget=unknown, stored=[sample(None)])
    assert unknown.spent >= 164  # the limit of a completion


def test_a_budget_narrows_what_is_in_flight(api: Api) -> None:
    api.delay_s = lambda body: 0.0 if is_probe(body) else 0.02
    probe = sum(usage_of({"messages": [{"role": "user", "content": "Hi"}]}, "x" * 40))
    budget = Budget(PRICE, 4000.0 + probe)
    drawn(api, "rollout.max_completion_tokens=1000", count=20, budget=budget)
    assert api.widest <= 3


def test_an_endpoint_that_does_not_keep_to_the_limit_is_told_of_and_feared(api: Api) -> None:
    api.text = lambda body: "x" * (400 if not is_probe(body) else 4)
    notes = Notes()
    budget = Budget(PRICE, 980.0)
    with pytest.raises(OutOfBudget):
        drawn(api, "rollout.backend.max_in_flight=1", count=50, budget=budget, observer=notes)
    assert budget.spent <= 980
    assert sum("does not keep to it" in text for text in notes.texts) == 1


def test_tokens_that_are_not_counted_are_paid_as_the_worst_case(api: Api) -> None:
    api.usage = False
    budget = Budget(PRICE, 5000.0)
    with pytest.raises(OutOfBudget):
        drawn(api, count=50, budget=budget)
    assert cost_of(api) < budget.spent <= 5000


def test_a_base_model_gets_the_text_of_the_messages(api: Api) -> None:
    completions = "rollout.backend.api=completions"
    (found,) = drawn(api, completions, count=1)
    assert api.paths == ["/v1/completions"] * 2 and api.samples[0]["prompt"] == "0+0?"
    assert "boxed" in found.completion.text
    with pytest.raises(ConfigError, match="completions: uses no chat template"):
        drawn(api, completions, "prompts.chat_template.thinking=true")


def test_what_an_answer_says_beside_its_text_is_kept(api: Api) -> None:
    api.thought = "reasoning"
    api.finish = lambda body: "content_filter" if "1+1" in str(body) else "length"
    found = [each.completion for each in drawn(api, count=2)]
    assert all(isinstance(reply, Reply) and reply.reasoning == "I think." for reply in found)
    assert {(reply.finish_reason, reply.finish) for reply in found} == {  # type: ignore[attr-defined]
        ("length", None),
        ("stop", "content_filter"),
    }


def test_opening_finds_out_which_parameters_are_taken(api: Api) -> None:
    api.refused = {
        "max_tokens": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
        "top_k": "Unrecognized request argument supplied: top_k",
        "seed": "Unknown name 'seed'",
    }
    notes = Notes()
    drawn(api, count=2, observer=notes)
    for body in api.samples:
        assert body["max_completion_tokens"] == 64
        assert not {"max_tokens", "top_k", "seed"} & body.keys()
    assert len(api.samples) == 2 and sum("seed" in text for text in notes.texts) == 1


def test_what_is_added_to_a_body_and_the_arguments_of_a_chat_template_are_sent(api: Api) -> None:
    drawn(
        api,
        *(
            "rollout.backend.extra_body.provider.order=['a']",
            "rollout.backend.extra_body.min_p=0.1",
        ),
        *("prompts.chat_template.enable_thinking=false", "rollout.backend.reasoning_effort=low"),
        count=1,
    )
    (body,) = api.samples
    assert (body["provider"], body["min_p"]) == ({"order": ["a"]}, 0.1)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["reasoning_effort"] == "low"


@pytest.mark.parametrize("name", ["n=2", "stream=true", "temperature=0.5", "seed=1", "messages=[]"])
def test_a_body_is_not_changed_behind_the_settings(api: Api, name: str) -> None:
    with pytest.raises(ConfigError, match="leave it out"):
        settings_of(api, f"rollout.backend.extra_body.{name}")


def test_the_beginning_of_an_answer_is_continued_or_refused(api: Api) -> None:
    prefix = "prompts.assistant_prefix=<think>"
    resolved = settings_of(api, prefix)
    prompt = begun(problems(1)[0], prefix="<think>")
    source = source_of(resolved)
    (found,) = chain(*source.draw(iter([(prompt, 0)]), settings=resolved.settings, stored=[]))
    (body,) = api.samples
    assert body["messages"][-1] == {"role": "assistant", "content": "<think>"}
    assert body["continue_final_message"] is True and body["add_generation_prompt"] is False
    assert found.completion.starts_in_thought
    api.refused = {"continue_final_message": "Unrecognized argument: continue_final_message"}
    with pytest.raises(ConfigError, match=r"prompts\.assistant_prefix: the endpoint refuses it"):
        drawn(api, prefix)


def test_a_refused_temperature_is_an_error_and_not_another_protocol(api: Api) -> None:
    api.refused = {"temperature": "'temperature' does not support 0.6, only the default param"}
    with pytest.raises(ConfigError, match=r"rollout\.temperature=0\.6: .*=1 evaluates without"):
        drawn(api, "rollout.temperature=0.6")
    assert drawn(api, "rollout.temperature=1", count=1)


def test_the_key_is_sent_and_never_said(
    api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    api.key = KEY
    monkeypatch.setenv("MY_KEY", KEY)
    assert drawn(api, "rollout.backend.api_key_env=MY_KEY", count=1)
    monkeypatch.setenv("MY_KEY", f"{KEY}-old")
    with pytest.raises(ConfigError, match="refuses the key in MY_KEY") as caught:
        drawn(api, "rollout.backend.api_key_env=MY_KEY")
    assert "sk-" not in str(caught.value) and "[key]" in str(caught.value)
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ConfigError, match=r"asks for a key .*; set MY_KEY,"):
        drawn(api, "rollout.backend.api_key_env=MY_KEY")
    monkeypatch.setenv("MY_KEY", f"{KEY}\n{KEY}")
    with pytest.raises(ConfigError, match="is not a key") as caught:
        drawn(api, "rollout.backend.api_key_env=MY_KEY")
    assert "sk-" not in str(caught.value)


def test_an_endpoint_that_cannot_be_used_says_so_within_seconds(api: Api) -> None:
    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"--model tini: .* did you mean tiny\?"):
        drawn(api, "model.path=tini")
    api.models = None  # no list: the probe finds out
    api.fault = lambda body, count: (404, {"error": "model tini not found"}, {})
    with pytest.raises(ConfigError, match=r"--model tini: .* does not serve it"):
        drawn(api, "model.path=tini")
    api.html = True
    with pytest.raises(BackendError, match="not an OpenAI-compatible API"):
        drawn(api)
    dead = Api(address="http://127.0.0.1:9")
    with pytest.raises(BackendError, match="connection refused"):
        drawn(dead)
    with pytest.raises(BackendError, match="unknown host"):
        drawn(Api(address="http://no.such.host.invalid"))
    assert time.monotonic() - started < 10


def test_a_busy_endpoint_is_asked_again_before_the_first_sample(api: Api) -> None:
    busy: Fault = (503, {"error": {"message": "Loading model"}}, {"Retry-After": "0.01"})
    api.fault = lambda body, count: busy if is_probe(body) and count < 2 else None
    assert len(drawn(api, count=1)) == 1
    api.fault = lambda body, count: busy
    with pytest.raises(BackendError, match="HTTP 503: Loading model"):
        drawn(api)


def test_a_model_that_thinks_longer_than_the_one_token_asked_for_is_there(api: Api) -> None:
    words = {"error": {"message": "Could not finish the message because max_tokens was reached."}}
    api.fault = lambda body, count: (400, words, {}) if is_probe(body) else None
    assert len(drawn(api, count=1)) == 1


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (402, {"error": {"message": "Insufficient Balance"}}, "no credit left"),
        (429, {"error": {"message": "quota", "code": "insufficient_quota"}}, "no credit left"),
        (404, {"detail": "Not Found"}, r"has no /chat/completions .* often in /v1"),
        (400, {"error": {"message": "bad request"}}, "HTTP 400: bad request"),
        (400, {"error": {"message": "stream: required"}}, "HTTP 400: stream: required"),
    ],
)
def test_what_no_patience_mends_is_said_at_once(
    api: Api, status: int, body: Body, said: str
) -> None:
    api.fault = lambda asked, count: (status, body, {})
    with pytest.raises(BackendError, match=said):
        drawn(api)
    assert len(api.asked) == 1


def test_a_quota_that_ends_on_the_way_is_not_waited_for(api: Api) -> None:
    body = {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}
    api.fault = lambda asked, count: None if is_probe(asked) else (429, body, {})
    with pytest.raises(BackendError, match="no credit left"):
        drawn(api, "rollout.backend.max_in_flight=1", count=3)
    assert len(api.samples) == 1


def test_an_answer_that_never_comes_has_failed_in_time(api: Api) -> None:
    api.fault = lambda body, count: "hang" if "1+1" in str(body) else None
    short = ["rollout.backend.request_timeout_s=0.3", "rollout.backend.retries=1"]
    with pytest.raises(BackendError, match=r"no answer within 0\.3 s, after 2 tries"):
        drawn(api, *short, count=2)


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "/v1/chat/completions", "/v1/models"])
def test_an_address_may_end_as_it_was_copied(api: Api, end: str) -> None:
    resolved = settings_of(api, f"rollout.backend.url={api.address}{end}")
    backend = resolved.settings.rollout.backend
    assert isinstance(backend, EndpointBackend) and backend.url == api.url


def test_a_model_that_is_too_small_for_the_protocol_is_refused_before_a_sample(api: Api) -> None:
    api.extra_model = {"max_model_len": 64}
    with pytest.raises(ConfigError, match=r"max_completion_tokens=64: .* takes 64 tokens"):
        drawn(api)


def test_how_the_assistants_turn_begins_and_ends_is_asked_of_the_endpoint(api: Api) -> None:
    drawn(
        api,
        "prompts.chat_template={thinking = false, kinds = ['a', 'b']}",
        "prompts.assistant_prefix=So",
        'rollout.stop=["</answer>", "\\n\\n"]',
        count=1,
    )
    (body,) = api.samples
    assert body["chat_template_kwargs"] == {"thinking": False, "kinds": ["a", "b"]}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert body["stop"] == ["</answer>", "\n\n"]
