"""Arguments and environment: what wins, what is refused, and what is never shown."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async.errors import ConfigurationError
from doitong_async.limits.plan import Plan
from doitong_async.settings import DEFAULT_BASE_URL, Options, Settings, settle
from doitong_async.transport.wire import StatusOperation
from doitong_async.urls import is_loopback

KEY = "sesame-open-0123456789"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is set in the environment of this process."""
    for name in ("DOITONG_API_KEY", "DOITONG_BASE_URL", "DOITONG_PLAN", "DOITONG_WEBHOOK_SECRET"):
        monkeypatch.delenv(name, raising=False)


def settled(environment: dict[str, str] | None = None, **arguments: Any) -> Settings:
    """Settle with a key and defaults; `environment` is what is set meanwhile."""
    given: dict[str, Any] = {
        "api_key": KEY,
        "base_url": None,
        "plan": None,
        "status_operation": "generation(id: ID!)",
        "allow_insecure_http": False,
        "ssl": True,
        "trust_env": False,
        "user_agent": "tests",
        "max_attempts": 3,
        "polls_count": True,
        "day_starts_at": 0.0,
        "resend_unanswered": True,
        "max_download_bytes": 1,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (environment or {}).items():
            patch.setenv(name, value)
        return settle(**{**given, **arguments})


ENVIRONMENT = {
    "DOITONG_API_KEY": "key-of-the-environment",
    "DOITONG_BASE_URL": "https://environment.example/api",
    "DOITONG_PLAN": "starter",
}


class TestOrder:
    def test_arguments_come_first(self) -> None:
        """What the code says, the environment does not change."""
        taken = settled(ENVIRONMENT, api_key="k", base_url="https://code.example", plan=Plan.PRO)
        assert (taken.api_key.reveal(), taken.base_url, taken.plan) == ("k", "https://code.example", Plan.PRO)

    def test_the_environment_comes_second(self) -> None:
        """It fills what the code leaves open."""
        taken = settled(ENVIRONMENT, api_key=None)
        assert (taken.api_key.reveal(), taken.base_url, taken.plan, taken.plan_is_assumed) == (
            "key-of-the-environment",
            "https://environment.example/api",
            Plan.STARTER,
            False,
        )

    @pytest.mark.parametrize("environment", [{}, {"DOITONG_BASE_URL": "", "DOITONG_PLAN": ""}])
    def test_defaults_come_last(self, environment: dict[str, str]) -> None:
        """An empty variable is none; the plan is then assumed to be the narrowest, and that is known."""
        taken = settled(environment)
        assert (taken.base_url, taken.plan, taken.plan_is_assumed) == (DEFAULT_BASE_URL, Plan.FREE, True)

    def test_the_process_environment_is_read_when_none_is_given(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As it is at the call, not at the import."""
        monkeypatch.setenv("DOITONG_PLAN", "pro")
        taken = settle(
            api_key=KEY,
            base_url="https://code.example",
            plan=None,
            status_operation="job",
            allow_insecure_http=False,
            ssl=True,
            trust_env=False,
            user_agent="tests",
            max_attempts=1,
            polls_count=True,
            day_starts_at=0.0,
            resend_unanswered=False,
            max_download_bytes=1,
        )
        assert taken.plan is Plan.PRO
        assert taken.status_operation == StatusOperation("job", "id", "ID!")


class TestKey:
    @pytest.mark.parametrize("key", [None, ""])
    def test_there_must_be_one(self, key: str | None) -> None:
        """The refusal names both places; an empty argument is no way to the environment."""
        with pytest.raises(ConfigurationError, match=r"api_key=… or set DOITONG_API_KEY"):
            settled({"DOITONG_API_KEY": ""}, api_key=key)

    @pytest.mark.parametrize(
        "key", ["se same", "sesame\n", "sésame", "sesame\x00", "sesame\x7f", 5, b"sesame"]
    )
    def test_it_can_stand_in_a_header(self, key: object) -> None:
        """A line break or a letter that no header holds is refused, without showing any of it."""
        with pytest.raises(ConfigurationError, match="api_key is no key") as caught:
            settled(api_key=key)
        assert "same" not in str(caught.value)

    def test_it_is_in_no_repr(self) -> None:
        """Settings may be logged."""
        assert KEY not in repr(settled())
        assert "base_url" in repr(settled())

    @pytest.mark.parametrize(
        "wrong",
        [
            {"base_url": "ftp://x"},
            {"plan": "gold"},
            {"max_attempts": 0},
            {"status_operation": "?"},
            {"max_download_bytes": 0},
        ],
    )
    def test_it_is_in_no_refusal_of_another_setting(self, wrong: dict[str, Any]) -> None:
        """Which is named instead."""
        with pytest.raises(ConfigurationError, match=f"{next(iter(wrong))} is") as caught:
            settled(**wrong)
        assert KEY not in str(caught.value)


class TestBaseUrl:
    @pytest.mark.parametrize(
        ("url", "root"),
        [
            ("https://api.doitong.com", "https://api.doitong.com"),
            ("https://api.doitong.com/", "https://api.doitong.com"),
            ("https://proxy.example:8443/doitong//", "https://proxy.example:8443/doitong"),
            ("HTTPS://proxy.example", "https://proxy.example"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("http://localhost:8080", "http://localhost:8080"),
        ],
    )
    def test_it_is_a_root(self, url: str, root: str) -> None:
        """`/graphql` is hung below it, so it ends without a slash."""
        assert settled(base_url=url).base_url == root

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "api.doitong.com",
            "ftp://api.doitong.com",
            "https://",
            "https://[::1",
            "https://h:port",
            5,
            b"https://h",
        ],
    )
    def test_what_is_no_url_is_refused(self, url: object) -> None:
        """The refusal shows a good one."""
        with pytest.raises(ConfigurationError, match=r"base_url is .*'https://api\.doitong\.com'"):
            settled(base_url=url)

    @pytest.mark.parametrize("url", ["https://h?x=1", "https://h/#x"])
    def test_it_has_no_query_and_no_fragment(self, url: str) -> None:
        """Nothing could be hung below it."""
        with pytest.raises(ConfigurationError, match="base_url has a query or a fragment"):
            settled(base_url=url)

    @pytest.mark.parametrize(
        "url",
        [
            "https://user:sesame@h",
            "https://sesame@h",
            "https://:sesame@h",
            "https://:@h",
            "ftp://user:sesame@h",
            "https://user:sesame@h:99999",
            "https://user:ses/ame@h",
            "user:sesame@h",
        ],
    )
    def test_it_has_no_user_and_shows_no_password(self, url: str) -> None:
        """Whatever else is wrong with it: a message ends in a log."""
        with pytest.raises(ConfigurationError, match="base_url has a user or a password") as caught:
            settled(base_url=url)
        assert "ame" not in str(caught.value).replace("named", "")

    @pytest.mark.parametrize("url", ["https://h/graphql", "https://h/graphql/", "https://h/v2/graphql"])
    def test_the_endpoint_is_not_the_root(self, url: str) -> None:
        """Else everything would be sent to /graphql/graphql."""
        with pytest.raises(ConfigurationError, match=r"base_url is .* adds /graphql"):
            settled(base_url=url)

    @pytest.mark.parametrize("url", ["http://api.doitong.com", "http://10.0.0.1", "http://localhost.example"])
    def test_plain_http_is_refused_beyond_this_machine(self, url: str) -> None:
        """Unless it is insisted on: the key could be read on the way."""
        with pytest.raises(ConfigurationError, match=r"base_url is .*allow_insecure_http=True"):
            settled(base_url=url)
        assert settled(base_url=url, allow_insecure_http=True).base_url == url

    def test_a_url_of_the_environment_is_checked_like_any_other(self) -> None:
        """Whoever sets a variable must not get at the key either."""
        with pytest.raises(ConfigurationError, match="base_url is"):
            settled({"DOITONG_BASE_URL": "http://thief.example"})


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("api.localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("::", False),
        ("localhost.example", False),
        ("notlocalhost", False),
        ("127.0.0.1.example", False),
        ("", False),
        (None, False),
    ],
)
def test_loopback_is_this_machine(host: str | None, expected: bool) -> None:
    """By name or by address; a name that only looks like it is not."""
    assert is_loopback(host) is expected


class TestPlan:
    @pytest.mark.parametrize(
        ("plan", "expected"),
        [
            ("free", Plan.FREE),
            (" Starter\n", Plan.STARTER),
            ("PRO", Plan.PRO),
            (Plan("mine", 1, 1), Plan("mine", 1, 1)),
        ],
    )
    def test_it_is_a_plan_or_its_name(self, plan: Plan | str, expected: Plan) -> None:
        """In any case."""
        assert settled(plan=plan).plan == expected
        assert settled(plan=plan).plan_is_assumed is False

    @pytest.mark.parametrize("plan", ["gold", "", "enterprise", 5, True])
    def test_no_other_is_guessed(self, plan: Any) -> None:
        """The limits of an Enterprise plan are agreed on, so its name alone says nothing."""
        with pytest.raises(ConfigurationError, match=r"plan is .*Plan\.enterprise"):
            settled(plan=plan)


@pytest.mark.parametrize("name", ["max_attempts", "max_download_bytes"])
@pytest.mark.parametrize("value", [0, -1, True, 1.0, "3", None])
def test_a_count_is_a_whole_number_above_zero(name: str, value: object) -> None:
    """Refused by its name."""
    arguments: dict[str, Any] = {name: value}
    with pytest.raises(ConfigurationError, match=f"{name} is {value!r}; expected a whole number above zero"):
        settled(**arguments)


@pytest.mark.parametrize("value", [0, -1, True, "3", None, float("nan"), float("inf")])
def test_the_time_of_a_download_is_seconds_above_zero(value: object) -> None:
    """Refused by its name; an hour if it is not given."""
    arguments: dict[str, Any] = {"download_timeout": value}
    with pytest.raises(ConfigurationError, match=f"download_timeout is {value!r}; expected seconds"):
        settled(**arguments)
    assert settled().download_timeout == 3600


@pytest.mark.parametrize("value", [-1, True, "3", None, float("nan"), float("inf")])
def test_the_least_rate_of_a_download_is_bytes_a_second(value: object) -> None:
    """Refused by its name; zero is no bound."""
    arguments: dict[str, Any] = {"min_download_rate": value}
    with pytest.raises(ConfigurationError, match=f"min_download_rate is {value!r}; expected bytes a second"):
        settled(**arguments)
    assert (settled(min_download_rate=0).min_download_rate, settled().min_download_rate) == (0, 1000)


@pytest.mark.parametrize(
    ("text", "operation"),
    [
        ("generation(id: ID!)", ("generation", "id", "ID!")),
        (" job ( jobId :String ) ", ("job", "jobId", "String")),
        ("checkJobStatus", ("checkJobStatus", "id", "ID!")),
    ],
)
def test_a_status_operation_is_a_field_with_its_argument(text: str, operation: tuple[str, str, str]) -> None:
    """Or the field alone, whose argument is then the usual one."""
    assert dataclasses.astuple(settled(status_operation=text).status_operation) == operation


@pytest.mark.parametrize(
    "text", ["", "1job", "job(id)", "job(id: [ID!])", "job(id: ID!) { x }", "jöb", None, 5]
)
def test_a_status_operation_brings_nothing_else_into_the_document(text: object) -> None:
    """It becomes part of a query."""
    with pytest.raises(ConfigurationError, match="status_operation is"):
        settled(status_operation=text)


SECONDS = ["timeout", "slot_timeout", "request_timeout", "poll_timeout", "poll_interval", "slot_expiry"]


class TestOptions:
    def test_the_defaults_hold(self) -> None:
        """No argument is needed."""
        assert Options().poll_interval == 2.0

    @pytest.mark.parametrize("name", SECONDS)
    @pytest.mark.parametrize(
        "value",
        [0, -1, 0.0, math.nan, math.inf, -math.inf, True, False, "5", [], pytest.param(10**400, id="huge")],
    )
    def test_odd_seconds_are_refused_by_name(self, name: str, value: object) -> None:
        """Neither nothing nor for ever is a time to wait."""
        fields: dict[str, Any] = {name: value}
        with pytest.raises(ConfigurationError, match=f"^{name} is .*; expected seconds, a finite number"):
            Options(**fields)

    @pytest.mark.parametrize("name", sorted({*SECONDS} - {"slot_timeout"}))
    def test_only_a_slot_may_be_waited_for_without_an_end(self, name: str) -> None:
        """Every wait for a job has one."""
        fields: dict[str, Any] = {name: None}
        with pytest.raises(ConfigurationError, match=f"{name} is None"):
            Options(**fields)
        assert Options(slot_timeout=None).slot_timeout is None

    @pytest.mark.parametrize("value", [1.999, 1, 0.1])
    def test_nothing_looks_more_often_than_the_documented_loop(self, value: float) -> None:
        """Two seconds, and the refusal says so."""
        with pytest.raises(ConfigurationError, match=r"poll_interval is .* at least 2"):
            Options(poll_interval=value)

    @pytest.mark.parametrize("provider", ["", "  ", None, 5])
    def test_a_provider_is_a_word(self, provider: Any) -> None:
        """Any word: more providers exist than are shown."""
        with pytest.raises(ConfigurationError, match="provider is"):
            Options(provider=provider)
        assert Options(provider="brand-new").provider == "brand-new"

    @settings(deadline=None, max_examples=50)
    @given(st.sampled_from(SECONDS), st.floats(min_value=2, allow_nan=False, allow_infinity=False))
    def test_any_finite_number_from_two_seconds_up_is_taken(self, name: str, value: float) -> None:
        """As it stands."""
        fields: dict[str, Any] = {name: value}
        assert getattr(Options(**fields), name) == value


@pytest.mark.parametrize("options", [{"width": 0}, {"height": "512"}, {"width": True}])
def test_a_default_size_is_checked_like_any_other(options: dict[str, Any]) -> None:
    """When the client is made, not at its first request."""
    with pytest.raises(ConfigurationError, match="expected whole pixels"):
        Options(**options)


@pytest.mark.parametrize("kind", ["Boolean", "Boolean!"])
def test_a_status_operation_that_no_id_can_be_given_to_is_refused(kind: str) -> None:
    """When it is set, not at the first poll of a job that is paid for."""
    with pytest.raises(ConfigurationError, match="no Boolean does"):
        settled(status_operation=f"generation(id: {kind})")


@pytest.mark.parametrize(
    ("kind", "job_id", "value"),
    [
        ("ID!", "7", "7"),
        ("String", "seven", "seven"),
        ("UUID!", "7", "7"),
        ("Int!", "7", 7),
        ("Int", "0", 0),
        ("Int!", "-7", -7),
        ("Int!", "2147483647", 2147483647),
        ("Float!", "2147483648", 2147483648),
        *(
            ("Int!", odd, None)
            for odd in ("2147483648", "9" * 5000, "07", "7.0", "7 ", "", "seven", "\u0667")
        ),
    ],
)
def test_an_id_is_given_as_the_status_operation_takes_it(kind: str, job_id: str, value: object) -> None:
    """A number where it takes one, and only if the answer will show the same id."""
    given = settled(status_operation=f"generation(id: {kind})").status_operation.value_of(job_id)
    assert given == value
    assert type(given) is type(value)


def test_failure_statuses_are_words_that_may_be_failures() -> None:
    """Compared without case and joints; none of those that are known to be something else."""
    assert settled(failure_statuses=["With-Drawn", "out_of luck"]).failure_words == {"withdrawn", "outofluck"}
    assert settled(failure_statuses={"aborted"}).failure_words == {"aborted"}
    assert settled().failure_words == frozenset()


@pytest.mark.parametrize("words", ["withdrawn", b"withdrawn", None, 5, [""], ["-_ "], [None], [b"x"]])
def test_failure_statuses_are_several_words(words: Any) -> None:
    """A single text would be as many words as it has letters."""
    with pytest.raises(ConfigurationError, match="failure_statuses is"):
        settled(failure_statuses=words)


@pytest.mark.parametrize("word", ["completed", "Processing", "queued"])
def test_a_word_with_a_meaning_keeps_it(word: str) -> None:
    """A job that is done, or waits, must not be given up."""
    with pytest.raises(ConfigurationError, match="known to be no failure"):
        settled(failure_statuses=["withdrawn", word])
