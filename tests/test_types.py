"""The value types: what a request rejects, what a status means, what a snapshot tolerates."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from doitong_async.errors import BadRequestError, DoitongWarning
from doitong_async.types import (
    FAILURE_WORDS,
    MAX_SIDE,
    GenerateRequest,
    Generation,
    JobStatus,
    MediaType,
    as_request,
    with_failures,
)

WITHDRAWN = with_failures(Generation(id="abc", status=JobStatus("withdrawn")), {"withdrawn"}).status
"""A status that a setting declares a failure."""


class Index:
    """An integer type of another library, such as numpy's."""

    def __index__(self) -> int:
        return 512


def request_of(**fields: Any) -> GenerateRequest:
    """Build a request from fields that a type checker would reject."""
    return GenerateRequest(**{"prompt": "a fox", **fields})


class TestRequest:
    def test_a_prompt_is_enough(self) -> None:
        """The client's and the service's defaults supply the rest."""
        request = GenerateRequest(prompt="a fox")
        assert [getattr(request, field.name) for field in dataclasses.fields(request)] == ["a fox"] + [
            None
        ] * 8

    @pytest.mark.parametrize(
        "blank",
        [
            *("", " ", "\u200b", "\ufeff", "\u2060\t", "\u3164", "\u2800", "\ufe0f", "\u0301"),
            *("\x00", "\u00ad\u200d", "\u3000"),
        ],
    )
    def test_a_prompt_has_something_visible(self, blank: str) -> None:
        """Nobody pays for a picture of nothing; invisible characters may stand beside visible ones."""
        with pytest.raises(BadRequestError, match=r"prompt is .*; expected a text"):
            GenerateRequest(prompt=blank)
        assert GenerateRequest(prompt=f"{blank}a fox").prompt == f"{blank}a fox"

    @pytest.mark.parametrize("prompt", ["狐", "🦊", "?", "7", "é", "€", "\U0001fae9", "\ue000"])
    def test_any_script_is_visible(self, prompt: str) -> None:
        """Letters of every script, signs, emoji, even one newer than this Python."""
        assert GenerateRequest(prompt=prompt).prompt == prompt

    @pytest.mark.parametrize("prompt", [None, "", " ", "\n\t", 5, b"a fox", ["a fox"]])
    def test_a_prompt_is_text(self, prompt: object) -> None:
        """A blank prompt, or one that is no text, is an error before it costs anything."""
        with pytest.raises(BadRequestError, match="prompt is"):
            request_of(prompt=prompt)

    def test_a_prompt_can_be_sent(self) -> None:
        """Half a surrogate pair has no UTF-8; the error names its position."""
        with pytest.raises(BadRequestError, match=r"prompt cannot be sent as UTF-8: .* at 2"):
            GenerateRequest(prompt="a \ud83e fox")

    def test_input_may_replace_the_prompt(self) -> None:
        """Some types take no text, such as a video from an image."""
        request = GenerateRequest(provider="runway-i2v", input={"image": "https://example.com/a.png"})
        assert request.prompt is None

    def test_an_empty_input_does_not_replace_the_prompt(self) -> None:
        """The request asks for nothing."""
        with pytest.raises(BadRequestError, match="prompt is None"):
            GenerateRequest(input={})

    @pytest.mark.parametrize("name", ["width", "height"])
    @pytest.mark.parametrize("side", [True, False, 512.0, "512", 0, -1, MAX_SIDE + 1, [], 1 + 0j])
    def test_a_side_is_whole_pixels(self, name: str, side: object) -> None:
        """Anything but a whole number from 1 to 16,384 is an error that names the side."""
        with pytest.raises(BadRequestError, match=f"{name} is .* from 1 to 16,384"):
            request_of(**{name: side})

    @pytest.mark.parametrize("side", [1, 1024, MAX_SIDE])
    def test_a_side_may_be_anything_from_1_to_16384(self, side: int) -> None:
        """Both bounds are allowed."""
        assert GenerateRequest(prompt="a fox", width=side, height=side).width == side

    def test_a_side_may_be_an_integer_of_another_library(self) -> None:
        """It becomes a plain integer, which JSON can hold."""
        assert type(request_of(width=Index()).width) is int
        assert request_of(width=Index()).width == 512

    @pytest.mark.parametrize("name", ["provider", "version", "quality", "type"])
    @pytest.mark.parametrize("word", ["", "  ", 5, b"x", "\ud800"])
    def test_a_text_field_is_not_empty(self, name: str, word: object) -> None:
        """An empty provider is a mistake, not a request for the default."""
        with pytest.raises(BadRequestError, match=f"{name} is"):
            request_of(**{name: word})

    @pytest.mark.parametrize("name", ["provider", "version", "quality", "type"])
    def test_an_unknown_value_passes(self, name: str) -> None:
        """There are more providers, versions and types than the documentation shows."""
        assert getattr(request_of(**{name: "brand-new"}), name) == "brand-new"

    @pytest.mark.parametrize("name", ["input", "options"])
    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ([1], "is a list"),
            ("text", "is a str"),
            ({1: "a"}, "expected a mapping with string keys"),
            ({"a": {1, 2}}, "cannot be written as JSON"),
            ({"a": float("nan")}, "cannot be written as JSON"),
            ({"a": float("inf")}, "cannot be written as JSON"),
            ({"a": b"bytes"}, "cannot be written as JSON"),
            ({"a": "\ud800"}, "cannot be written as JSON"),
        ],
    )
    def test_invalid_json_is_an_error(self, name: str, value: object, said: str) -> None:
        """It is found here, not by the JSON writer after a slot and a permit were taken."""
        with pytest.raises(BadRequestError, match=f"{name} {said}|{name} .*{said}"):
            request_of(**{name: value})

    def test_json_that_contains_itself_is_an_error(self) -> None:
        """It would have no end."""
        circle: dict[str, Any] = {}
        circle["again"] = circle
        with pytest.raises(BadRequestError, match="options cannot be written as JSON"):
            request_of(options=circle)

    @pytest.mark.parametrize("name", ["input", "options"])
    def test_a_request_copies_what_it_checked(self, name: str) -> None:
        """A later change of the mapping, however deep, does not change the request."""
        given = {"deep": {"list": [1]}}
        request = request_of(**{name: given})
        given["deep"]["list"].append(2)
        assert getattr(request, name) == {"deep": {"list": [1]}}

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"input": {"text": "a hen"}}, "text was given by name and in input"),
            ({"width": 512, "options": {"width": 512}}, "width was given by name and in options"),
            ({"height": 512, "options": {"height": 9}}, "height was given by name and in options"),
            ({"version": "v", "options": {"version": "v"}}, "version was given"),
            ({"quality": "high", "options": {"quality": None}}, "quality was given"),
        ],
    )
    def test_a_field_given_twice_is_an_error(self, fields: dict[str, Any], said: str) -> None:
        """Nobody can know which of the two was meant."""
        with pytest.raises(BadRequestError, match=said):
            request_of(**fields)

    def test_a_version_of_another_provider_causes_a_warning(self) -> None:
        """It is sent as requested, and the warning points at the caller's own line."""
        with pytest.warns(DoitongWarning, match=r"'flux-pro-1.1' is shown for 'flux-pro'") as seen:
            request = GenerateRequest(prompt="a fox", provider="flux-ultra", version="flux-pro-1.1")
        assert request.version == "flux-pro-1.1"
        assert seen[0].filename == __file__

    @pytest.mark.parametrize(
        ("provider", "version"),
        [
            ("flux-pro", "flux-pro-1.1"),
            ("flux-pro", "flux-pro-9"),
            ("brand-new", "flux-pro-1.1"),
            (None, "flux-pro-1.1"),
            ("flux-pro", None),
        ],
    )
    def test_other_pairs_cause_no_warning(self, provider: str | None, version: str | None) -> None:
        """A pair is odd only if both are known and do not belong together."""
        request = GenerateRequest(prompt="a fox", provider=provider, version=version)
        assert (request.provider, request.version) == (provider, version)

    def test_a_request_is_frozen(self) -> None:
        """Its checks stay valid."""
        with pytest.raises(dataclasses.FrozenInstanceError):
            GenerateRequest(prompt="a fox").prompt = ""  # type: ignore[misc]

    @pytest.mark.parametrize(
        "how", [lambda value: pickle.loads(pickle.dumps(value)), copy.copy, copy.deepcopy]
    )
    def test_a_request_can_be_pickled_and_copied(self, how: Any) -> None:
        """So it can be sent between processes."""
        request = GenerateRequest(prompt="a fox 🦊", width=512, options={"seed": 7})
        assert how(request) == request


class TestDefaults:
    def test_they_fill_open_fields(self) -> None:
        """The provider, the type it makes, and the size of a picture."""
        request = GenerateRequest(prompt="a fox").with_defaults(provider="flux-krea", width=512, height=256)
        assert (request.provider, request.type, request.width, request.height) == (
            "flux-krea",
            MediaType.IMAGE,
            512,
            256,
        )

    def test_they_change_no_given_field(self) -> None:
        """Whether it was given by name or in the options."""
        said = GenerateRequest(prompt="a fox", provider="flux-pro", type="HOLOGRAM", width=64, height=32)
        assert said.with_defaults(provider="kling", width=512, height=512) == said

    @pytest.mark.parametrize(("name", "other"), [("width", "height"), ("height", "width")])
    def test_a_side_in_the_options_counts_as_given(self, name: str, other: str) -> None:
        """The default fills only the other side, so none is given twice."""
        request = request_of(options={name: 64}).with_defaults(provider="flux-pro", width=512, height=512)
        assert (getattr(request, name), getattr(request, other)) == (None, 512)

    @pytest.mark.parametrize("provider", ["kling", "hedra", "elevenlabs"])
    def test_only_pictures_get_a_size(self, provider: str) -> None:
        """The reference shows no width for video, avatars or speech."""
        request = GenerateRequest(prompt="a fox").with_defaults(provider=provider, width=512, height=512)
        assert (request.width, request.height) == (None, None)
        assert request.type != MediaType.IMAGE

    def test_the_type_follows_from_the_given_provider(self) -> None:
        """Not from the default one."""
        asked = GenerateRequest(prompt="a fox", provider="kling")
        assert asked.with_defaults(provider="flux-pro", width=512, height=512).type == MediaType.VIDEO

    def test_a_given_size_is_sent_for_any_type(self) -> None:
        """The client does not know better than the caller."""
        asked = GenerateRequest(prompt="a fox", provider="kling", width=640)
        assert asked.with_defaults(provider="flux-pro", width=512, height=512).width == 640

    def test_a_version_that_does_not_fit_the_default_provider_causes_one_warning(self) -> None:
        """It comes once the provider is known; a request that names one caused its warning earlier."""
        named = GenerateRequest(prompt="a fox", provider="flux-krea", version="flux-krea")
        assert named.with_defaults(provider="flux-pro", width=None, height=None).version == "flux-krea"
        with pytest.warns(DoitongWarning, match="flux-krea"):
            GenerateRequest(prompt="a fox", version="flux-krea").with_defaults(
                provider="flux-pro", width=None, height=None
            )


class TestAsRequest:
    def test_a_prompt_takes_fields(self) -> None:
        """As `generate("a fox", width=512)` does."""
        assert as_request("a fox", width=512) == GenerateRequest(prompt="a fox", width=512)

    def test_a_whole_request_stays_itself(self) -> None:
        """Fields left out arrive as None and change nothing."""
        request = GenerateRequest(prompt="a fox")
        assert as_request(request, width=None, provider=None) is request

    def test_a_whole_request_takes_no_fields(self) -> None:
        """The error names all fields beside it."""
        with pytest.raises(BadRequestError, match="came with height, width beside it"):
            as_request(GenerateRequest(prompt="a fox"), width=1, height=0)

    def test_no_prompt_needs_an_input(self) -> None:
        """`generate(input=…)` has no prompt."""
        assert as_request(None, input={"image": "u"}).input == {"image": "u"}
        with pytest.raises(BadRequestError, match="prompt is None"):
            as_request(None)


class TestStatus:
    @pytest.mark.parametrize("spelled", ["completed", "COMPLETED", "Completed", " completed\n"])
    def test_case_and_space_do_not_matter(self, spelled: str) -> None:
        """The documentation shows lower case; GraphQL enums are usually upper case."""
        assert JobStatus(spelled) is JobStatus.COMPLETED

    @pytest.mark.parametrize("status", JobStatus)
    def test_every_known_status_waits_succeeds_or_fails(self, status: JobStatus) -> None:
        """Exactly one of the three."""
        waits = status.value in {"queued", "pending", "starting", "processing", "running"}
        assert [waits, status.is_success, status.is_failure].count(True) == 1
        assert status.is_terminal is not waits
        assert status.is_known

    def test_only_completed_is_success(self) -> None:
        """The reference shows no other successful end."""
        assert [status for status in JobStatus if status.is_success] == [JobStatus.COMPLETED]

    def test_an_unknown_status_is_kept_and_waits(self) -> None:
        """The client gives up no paid job because of a new status."""
        word = JobStatus("Up-Scaling")
        assert word == "Up-Scaling"
        assert str(word) == word.value == "Up-Scaling"
        assert {word.is_known, word.is_terminal, word.is_success, word.is_failure} == {False}

    @pytest.mark.parametrize("bare", sorted(FAILURE_WORDS))
    def test_assumed_failure_statuses_are_kept_and_fail(self, bare: str) -> None:
        """All but two are assumptions; case and joints make no difference."""
        for spelled in (bare, bare.upper(), f" {bare[:3]}-{bare[3:]} ", f"{bare[:4]}_{bare[4:]}"):
            word = JobStatus(spelled)
            assert word == spelled or word in JobStatus
            assert [word.is_known, word.is_terminal, word.is_failure, word.is_success] == [True] * 3 + [False]

    @pytest.mark.parametrize(
        "word", ["aborted", "Timed-Out", "timedOut", "TIMED OUT", "blocked", "moderated", "Content Moderated"]
    )
    def test_failure_statuses_of_other_services_are_among_them(self, word: str) -> None:
        """Without them the client would poll until the timeout."""
        assert JobStatus(word).is_failure

    @pytest.mark.parametrize(
        "word", ["in_progress", "paused", "blocking", "not failed", "moderating", "retry"]
    )
    def test_similar_statuses_are_no_failures(self, word: str) -> None:
        """The client must not give up a running job."""
        assert not JobStatus(word).is_known

    def test_a_setting_declares_one_status_a_failure(self) -> None:
        """It keeps its spelling, and other statuses do not change."""
        update = Generation(id="abc", status=JobStatus("With-Drawn"))
        failed = with_failures(update, {"withdrawn"})
        assert (failed.status, failed.status.is_failure) == ("With-Drawn", True)
        assert not JobStatus("With-Drawn").is_failure
        assert with_failures(update, {"other"}) is update
        done = Generation(id="abc", status=JobStatus.COMPLETED)
        assert with_failures(done, {"completed"}) is done

    def test_a_status_called_unknown_is_unknown(self) -> None:
        """The word and the client's own mark for unknown statuses do not mix."""
        assert not JobStatus("unknown").is_known
        assert not JobStatus("UNKNOWN").is_terminal

    def test_unknown_statuses_are_distinct(self) -> None:
        """As values and in sets; the same word twice is equal."""
        assert JobStatus("upscaling") != JobStatus("tiling")
        assert {JobStatus("upscaling"), JobStatus("upscaling")} == {"upscaling"}

    def test_an_unknown_status_is_not_added_to_the_enum(self) -> None:
        """The service cannot make this client's list grow."""
        JobStatus("upscaling")
        assert "upscaling" not in [status.value for status in JobStatus]

    @pytest.mark.parametrize("word", [JobStatus.FAILED, JobStatus("up-scaling"), WITHDRAWN])
    def test_a_status_can_be_pickled_and_copied(self, word: JobStatus) -> None:
        """Whether it is known or not."""
        for twin in (pickle.loads(pickle.dumps(word)), copy.copy(word), copy.deepcopy(word)):
            assert isinstance(twin, JobStatus)
            assert (twin, twin.is_known) == (word, word.is_known)
            assert twin.is_failure is word.is_failure

    @pytest.mark.parametrize("word", ["", "  ", None, 5, True, ["completed"]])
    def test_a_status_is_a_text(self, word: Any) -> None:
        """Anything else is an error."""
        with pytest.raises(ValueError, match=r"a status is a word"):
            JobStatus(word)


class TestGeneration:
    def test_it_can_be_hashed_whatever_the_service_sent(self) -> None:
        """A snapshot is a value: it can be in a set."""
        fields: dict[str, Any] = {"metadata": {"a": [1]}, "extra": {"b": {}}}
        same = [Generation(id="abc", status=JobStatus.PROCESSING, **fields) for _ in range(2)]
        assert len({*same, Generation(id="abd", status=JobStatus.PROCESSING)}) == 2

    def test_id_and_status_are_enough(self) -> None:
        """Other fields are None until the service sends them."""
        assert Generation(id="abc", status=JobStatus.PROCESSING).url is None

    @pytest.mark.parametrize(
        "fields",
        [
            {"id": "", "status": "completed"},
            {"id": None, "status": "completed"},
            {"id": ["abc"], "status": "completed"},
            {"id": "abc", "status": None},
            {"id": "abc", "status": 5},
            {"id": "abc", "status": ""},
        ],
    )
    def test_id_and_status_are_essential(self, fields: dict[str, Any]) -> None:
        """Without them there is nothing to wait for."""
        with pytest.raises(ValidationError):
            Generation(**fields)

    @pytest.mark.parametrize("name", ["url", "type", "provider", "credit_cost", "created_at"])
    @pytest.mark.parametrize("value", [{}, ["x"], {"deep": [1]}])
    def test_a_field_of_the_wrong_type_loses_no_job(self, name: str, value: object) -> None:
        """The field is None, as if it had not come."""
        fields: dict[str, Any] = {"id": "abc", "status": "completed", name: value}
        assert getattr(Generation(**fields), name) is None

    @pytest.mark.parametrize(
        ("cost", "read"),
        [(0, 0), (0.5, 0.5), (10**12, 10**12), (10**12 + 1, None), (-1, None), (float("nan"), None)],
    )
    def test_an_impossible_cost_is_none(self, cost: float, read: float | None) -> None:
        """A batch must not add it up."""
        assert Generation(id="abc", status=JobStatus.COMPLETED, credit_cost=cost).credit_cost == read

    def test_metadata_that_is_not_json_is_none(self) -> None:
        """It is a JSON scalar of the service's own."""
        fields: dict[str, Any] = {"id": "abc", "status": "completed", "metadata": object()}
        assert Generation(**fields).metadata is None

    def test_fields_are_read_leniently(self) -> None:
        """A number for an id, a text for a number, ISO 8601 for a time."""
        fields: dict[str, Any] = {
            "id": 17,
            "status": "COMPLETED",
            "credit_cost": "20",
            "created_at": "2024-01-01T00:00:00Z",
            "metadata": {"seed": 7},
        }
        assert Generation(**fields) == Generation(
            id="17",
            status=JobStatus.COMPLETED,
            credit_cost=20,
            created_at=datetime(2024, 1, 1, tzinfo=UTC),
            metadata={"seed": 7},
        )

    def test_a_validation_error_shows_nothing_of_the_answer(self) -> None:
        """It may end in a log, and the answer may hold a signed URL."""
        fields: dict[str, Any] = {"id": ["https://cdn.example/secret"], "status": "completed"}
        with pytest.raises(ValidationError) as caught:
            Generation(**fields)
        assert "secret" not in str(caught.value)

    def test_a_snapshot_can_be_pickled_and_copied(self) -> None:
        """Errors contain it and are pickled."""
        snapshot = Generation(id="abc", status=JobStatus("tiling"), metadata={"a": [1]})
        assert pickle.loads(pickle.dumps(snapshot)) == snapshot
        assert copy.deepcopy(snapshot) == snapshot

    def test_a_snapshot_is_frozen(self) -> None:
        """It records one moment."""
        with pytest.raises(dataclasses.FrozenInstanceError):
            Generation(id="abc", status=JobStatus.FAILED).url = "x"  # type: ignore[misc]
