"""Arguments and environment: which one wins, what is an error, and what is never shown."""

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
from doitong_async.transport.forms import Form
from doitong_async.transport.status import StatusOperation, StatusPath
from doitong_async.urls import is_loopback

KEY = "sesame-open-0123456789"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clear this package's variables from the environment."""
    for name in ("API_KEY", "BASE_URL", "COORDINATOR", "PLAN", "TRANSPORT", "WEBHOOK_SECRET"):
        monkeypatch.delenv(f"DOITONG_{name}", raising=False)


def settled(environment: dict[str, str] | None = None, **arguments: Any) -> Settings:
    """Settle with a key and defaults; `environment` is set meanwhile."""
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


class TestCoordinator:
    URL = "rediss://user:Zr8mQ1vX5tB3@cache.example:6379/0"

    def test_the_argument_comes_before_the_environment(self) -> None:
        environment = {"DOITONG_COORDINATOR": "redis://environment"}
        for argument, used in ((self.URL, self.URL), (None, "redis://environment")):
            taken = settled(environment, coordinator=argument).coordinator
            assert taken is not None
            assert taken.reveal() == used
            assert used not in repr(taken)

    def test_false_means_none_whatever_the_environment_says(self) -> None:
        assert settled({"DOITONG_COORDINATOR": "redis://environment"}, coordinator=False).coordinator is None
        assert settled({"DOITONG_COORDINATOR": " "}).coordinator is None

    @pytest.mark.parametrize("given", ["", "redis://", "cache:6379", "http://:Zr8mQ1vX5tB3@cache", 7, True])
    def test_what_is_no_coordinator_is_refused_without_showing_it(self, given: Any) -> None:
        with pytest.raises(ConfigurationError, match="coordinator is not the address") as caught:
            settled(coordinator=given)
        assert "Zr8mQ1vX5tB3" not in caught.value.message


class TestOrder:
    def test_arguments_come_first(self) -> None:
        """The environment does not override what the code says."""
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
        """An empty variable counts as unset.

        Without a plan the narrowest is assumed and marked as assumed.
        """
        taken = settled(environment)
        assert (taken.base_url, taken.plan, taken.plan_is_assumed) == (DEFAULT_BASE_URL, Plan.FREE, True)

    def test_the_process_environment_is_read_when_none_is_given(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At the time of the call, not of the import."""
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


class TestTransport:
    def test_it_is_named_by_argument_or_environment(self) -> None:
        """The general form is the default, also where the variable is empty."""
        assert settled().form is settled({"DOITONG_TRANSPORT": ""}).form is Form.GRAPHQL
        assert settled({"DOITONG_TRANSPORT": "rest"}).form is Form.REST
        assert settled({"DOITONG_TRANSPORT": "rest"}, transport="graphql-flat").form is Form.FLAT

    @pytest.mark.parametrize("name", ["", "soap", "REST", 5])
    def test_an_unknown_one_is_an_error_that_lists_the_known(self, name: Any) -> None:
        """Whether it is an argument or in the environment."""
        with pytest.raises(ConfigurationError, match="expected one of 'graphql', 'graphql-flat', 'rest'"):
            settled(transport=name)

    def test_each_form_asks_for_a_status_in_its_own_way(self) -> None:
        """GraphQL by a query field, REST by a path."""
        assert settled(transport="graphql-flat").status_query == StatusOperation("generation", "id", "ID!")
        rest = settled(transport="rest", status_path="/v2/jobs/{id}")
        assert rest.status_query == StatusPath("/v2/jobs/{id}")


class TestKey:
    @pytest.mark.parametrize("key", [None, ""])
    def test_a_key_is_required(self, key: str | None) -> None:
        """The error names both places; an empty argument does not fall back to the environment."""
        with pytest.raises(ConfigurationError, match=r"api_key=… or set DOITONG_API_KEY"):
            settled({"DOITONG_API_KEY": ""}, api_key=key)

    @pytest.mark.parametrize(
        "key", ["se same", "sesame\n", "sésame", "sesame\x00", "sesame\x7f", 5, b"sesame"]
    )
    def test_it_must_fit_in_a_header(self, key: object) -> None:
        """A line break or a character that no header allows is an error, which shows no part of the key."""
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
    def test_it_is_in_no_error_about_another_setting(self, wrong: dict[str, Any]) -> None:
        """That error names the other setting instead."""
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
        """The client appends `/graphql`, so it ends without a slash."""
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
    def test_an_invalid_url_is_an_error(self, url: object) -> None:
        """The error shows a valid one."""
        with pytest.raises(ConfigurationError, match=r"base_url is .*'https://api\.doitong\.com'"):
            settled(base_url=url)

    @pytest.mark.parametrize("url", ["https://h?x=1", "https://h/#x"])
    def test_it_has_no_query_and_no_fragment(self, url: str) -> None:
        """The client could append nothing to it."""
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
        """Whatever else is wrong with it, since a message may end in a log."""
        with pytest.raises(ConfigurationError, match="base_url has a user or a password") as caught:
            settled(base_url=url)
        assert "ame" not in str(caught.value).replace("named", "")

    @pytest.mark.parametrize("url", ["https://h/graphql", "https://h/graphql/", "https://h/v2/graphql"])
    def test_the_endpoint_is_not_the_root(self, url: str) -> None:
        """Otherwise every request would go to /graphql/graphql."""
        with pytest.raises(ConfigurationError, match=r"base_url is .* adds /graphql"):
            settled(base_url=url)

    @pytest.mark.parametrize("url", ["http://api.doitong.com", "http://10.0.0.1", "http://localhost.example"])
    def test_plain_http_beyond_this_machine_is_an_error(self, url: str) -> None:
        """The key could be read on the way; `allow_insecure_http` allows it."""
        with pytest.raises(ConfigurationError, match=r"base_url is .*allow_insecure_http=True"):
            settled(base_url=url)
        assert settled(base_url=url, allow_insecure_http=True).base_url == url

    def test_a_url_from_the_environment_is_checked_as_well(self) -> None:
        """Setting a variable must not be enough to get the key."""
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
    """By name or by address; a similar name is not."""
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
        """In upper or lower case."""
        assert settled(plan=plan).plan == expected
        assert settled(plan=plan).plan_is_assumed is False

    @pytest.mark.parametrize("plan", ["gold", "", "enterprise", 5, True])
    def test_any_other_value_is_an_error(self, plan: Any) -> None:
        """An Enterprise plan has negotiated limits, so its name alone says nothing."""
        with pytest.raises(ConfigurationError, match=r"plan is .*Plan\.enterprise"):
            settled(plan=plan)


@pytest.mark.parametrize("name", ["max_attempts", "max_download_bytes"])
@pytest.mark.parametrize("value", [0, -1, True, 1.0, "3", None])
def test_a_count_is_a_whole_number_above_zero(name: str, value: object) -> None:
    """The error names the setting."""
    arguments: dict[str, Any] = {name: value}
    with pytest.raises(ConfigurationError, match=f"{name} is {value!r}; expected a whole number above zero"):
        settled(**arguments)


@pytest.mark.parametrize("value", [0, -1, True, "3", None, float("nan"), float("inf")])
def test_a_download_timeout_is_seconds_above_zero(value: object) -> None:
    """The error names the setting; the default is an hour."""
    arguments: dict[str, Any] = {"download_timeout": value}
    with pytest.raises(ConfigurationError, match=f"download_timeout is {value!r}; expected seconds"):
        settled(**arguments)
    assert settled().download_timeout == 3600


@pytest.mark.parametrize("value", [-1, True, "3", None, float("nan"), float("inf")])
def test_a_minimum_download_rate_is_bytes_a_second(value: object) -> None:
    """The error names the setting; zero sets no minimum."""
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
    """A field alone takes the usual argument."""
    assert dataclasses.astuple(settled(status_operation=text).status_operation) == operation


@pytest.mark.parametrize(
    "text", ["", "1job", "job(id)", "job(id: [ID!])", "job(id: ID!) { x }", "jöb", None, 5]
)
def test_a_status_operation_adds_nothing_else_to_the_query(text: object) -> None:
    """It becomes part of a GraphQL document."""
    with pytest.raises(ConfigurationError, match="status_operation is"):
        settled(status_operation=text)


SECONDS = ["timeout", "slot_timeout", "request_timeout", "poll_timeout", "poll_interval", "slot_expiry"]


class TestOptions:
    def test_the_defaults_are_valid(self) -> None:
        """No argument is required."""
        assert Options().poll_interval == 2.0

    @pytest.mark.parametrize("name", SECONDS)
    @pytest.mark.parametrize(
        "value",
        [0, -1, 0.0, math.nan, math.inf, -math.inf, True, False, "5", [], pytest.param(10**400, id="huge")],
    )
    def test_odd_seconds_are_an_error_that_names_them(self, name: str, value: object) -> None:
        """Neither zero nor infinity is a time to wait."""
        fields: dict[str, Any] = {name: value}
        with pytest.raises(ConfigurationError, match=f"^{name} is .*; expected seconds, a finite number"):
            Options(**fields)

    @pytest.mark.parametrize("name", sorted({*SECONDS} - {"slot_timeout"}))
    def test_only_the_wait_for_a_slot_may_be_endless(self, name: str) -> None:
        """Every wait for a job ends."""
        fields: dict[str, Any] = {name: None}
        with pytest.raises(ConfigurationError, match=f"{name} is None"):
            Options(**fields)
        assert Options(slot_timeout=None).slot_timeout is None

    @pytest.mark.parametrize("value", [1.999, 1, 0.1])
    def test_nothing_polls_more_often_than_the_documented_loop(self, value: float) -> None:
        """Every two seconds; the error says so."""
        with pytest.raises(ConfigurationError, match=r"poll_interval is .* at least 2"):
            Options(poll_interval=value)

    @pytest.mark.parametrize("provider", ["", "  ", None, 5])
    def test_a_provider_is_a_word(self, provider: Any) -> None:
        """It may be any word, since more providers exist than the documentation shows."""
        with pytest.raises(ConfigurationError, match="provider is"):
            Options(provider=provider)
        assert Options(provider="brand-new").provider == "brand-new"

    @settings(deadline=None, max_examples=50)
    @given(st.sampled_from(SECONDS), st.floats(min_value=2, allow_nan=False, allow_infinity=False))
    def test_any_finite_number_from_two_seconds_up_is_valid(self, name: str, value: float) -> None:
        """It is kept unchanged."""
        fields: dict[str, Any] = {name: value}
        assert getattr(Options(**fields), name) == value


def test_a_default_size_is_a_plain_number() -> None:
    """What counts as a whole number, as numpy's do, may be none that JSON can write."""

    class Whole:
        def __index__(self) -> int:
            return 512

    width: Any = Whole()
    assert type(Options(width=width).width) is int


@pytest.mark.parametrize("options", [{"width": 0}, {"height": "512"}, {"width": True}])
def test_a_default_size_is_checked_at_once(options: dict[str, Any]) -> None:
    """The client raises when it is made, not at its first request."""
    with pytest.raises(ConfigurationError, match="expected whole pixels"):
        Options(**options)


@pytest.mark.parametrize("kind", ["Boolean", "Boolean!"])
def test_a_status_operation_that_takes_no_id_is_an_error(kind: str) -> None:
    """It is raised when it is set, not at the first poll of a paid job."""
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
def test_an_id_has_the_type_that_the_status_operation_takes(kind: str, job_id: str, value: object) -> None:
    """A number only if the answer will show the same id."""
    given = settled(status_operation=f"generation(id: {kind})").status_operation.value_of(job_id)
    assert given == value
    assert type(given) is type(value)


def test_failure_statuses_are_words_that_may_be_failures() -> None:
    """They are compared without case and joints; words with another known meaning are excluded."""
    assert settled(failure_statuses=["With-Drawn", "out_of luck"]).failure_words == {"withdrawn", "outofluck"}
    assert settled(failure_statuses={"aborted"}).failure_words == {"aborted"}
    assert settled().failure_words == frozenset()


@pytest.mark.parametrize("words", ["withdrawn", b"withdrawn", None, 5, [""], ["-_ "], [None], [b"x"]])
def test_failure_statuses_are_several_words(words: Any) -> None:
    """A single text would count as one word per letter."""
    with pytest.raises(ConfigurationError, match="failure_statuses is"):
        settled(failure_statuses=words)


@pytest.mark.parametrize("word", ["completed", "Processing", "queued"])
def test_a_word_with_a_meaning_keeps_it(word: str) -> None:
    """The client must not give up a job that is done or waits."""
    with pytest.raises(ConfigurationError, match="known to be no failure"):
        settled(failure_statuses=["withdrawn", word])
