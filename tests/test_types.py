"""The nouns: what a request refuses, what a status means, what a snapshot forgives."""

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
"""A word that is a failure by a setting."""


class Index:
    """An integer of another library, such as numpy's."""

    def __index__(self) -> int:
        return 512


def request_of(**fields: Any) -> GenerateRequest:
    """Build a request from fields that a type checker would not let through."""
    return GenerateRequest(**{"prompt": "a fox", **fields})


class TestRequest:
    def test_a_prompt_is_enough(self) -> None:
        """Everything else is left to the client's defaults and the service's."""
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
    def test_a_prompt_shows_something(self, blank: str) -> None:
        """Nobody pays for a picture of nothing; what is invisible may stand beside what is not."""
        with pytest.raises(BadRequestError, match=r"prompt is .*; expected a text"):
            GenerateRequest(prompt=blank)
        assert GenerateRequest(prompt=f"{blank}a fox").prompt == f"{blank}a fox"

    @pytest.mark.parametrize("prompt", ["狐", "🦊", "?", "7", "é", "€", "\U0001fae9", "\ue000"])
    def test_any_writing_is_something(self, prompt: str) -> None:
        """Letters of every script, signs, emoji, one newer than this Python among them."""
        assert GenerateRequest(prompt=prompt).prompt == prompt

    @pytest.mark.parametrize("prompt", [None, "", " ", "\n\t", 5, b"a fox", ["a fox"]])
    def test_a_prompt_says_something(self, prompt: object) -> None:
        """A blank prompt, or one that is no text, is refused before it costs anything."""
        with pytest.raises(BadRequestError, match="prompt is"):
            request_of(prompt=prompt)

    def test_a_prompt_can_be_sent(self) -> None:
        """Half a surrogate pair has no UTF-8; the refusal says where it stands."""
        with pytest.raises(BadRequestError, match=r"prompt cannot be sent as UTF-8: .* at 2"):
            GenerateRequest(prompt="a \ud83e fox")

    def test_input_may_stand_in_for_the_prompt(self) -> None:
        """Some types take no text, such as a video from an image."""
        request = GenerateRequest(provider="runway-i2v", input={"image": "https://example.com/a.png"})
        assert request.prompt is None

    def test_an_empty_input_is_no_prompt(self) -> None:
        """Nothing was asked for."""
        with pytest.raises(BadRequestError, match="prompt is None"):
            GenerateRequest(input={})

    @pytest.mark.parametrize("name", ["width", "height"])
    @pytest.mark.parametrize("side", [True, False, 512.0, "512", 0, -1, MAX_SIDE + 1, [], 1 + 0j])
    def test_a_side_is_whole_pixels(self, name: str, side: object) -> None:
        """Whatever is no whole number from 1 to 16,384 is refused by the name of its side."""
        with pytest.raises(BadRequestError, match=f"{name} is .* from 1 to 16,384"):
            request_of(**{name: side})

    @pytest.mark.parametrize("side", [1, 1024, MAX_SIDE])
    def test_a_side_may_be_anything_from_1_to_16384(self, side: int) -> None:
        """The bounds themselves are within."""
        assert GenerateRequest(prompt="a fox", width=side, height=side).width == side

    def test_a_side_may_be_an_integer_of_another_library(self) -> None:
        """It becomes a plain integer, which JSON can hold."""
        assert type(request_of(width=Index()).width) is int
        assert request_of(width=Index()).width == 512

    @pytest.mark.parametrize("name", ["provider", "version", "quality", "type"])
    @pytest.mark.parametrize("word", ["", "  ", 5, b"x"])
    def test_a_word_is_a_word(self, name: str, word: object) -> None:
        """An empty provider is a mistake, not a wish for the default."""
        with pytest.raises(BadRequestError, match=f"{name} is"):
            request_of(**{name: word})

    @pytest.mark.parametrize("name", ["provider", "version", "quality", "type"])
    def test_an_unknown_word_passes(self, name: str) -> None:
        """There are more providers, versions and types than the pages show."""
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
        ],
    )
    def test_what_is_not_json_is_refused(self, name: str, value: object, said: str) -> None:
        """Found here, not by the JSON writer after a slot and a turn were taken."""
        with pytest.raises(BadRequestError, match=f"{name} {said}|{name} .*{said}"):
            request_of(**{name: value})

    def test_json_that_contains_itself_is_refused(self) -> None:
        """It has no end to be sent."""
        circle: dict[str, Any] = {}
        circle["again"] = circle
        with pytest.raises(BadRequestError, match="options cannot be written as JSON"):
            request_of(options=circle)

    @pytest.mark.parametrize("name", ["input", "options"])
    def test_what_was_checked_is_what_is_sent(self, name: str) -> None:
        """Changing the mapping afterwards, however deep inside, changes no request."""
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
    def test_nothing_is_said_twice(self, fields: dict[str, Any], said: str) -> None:
        """Which of the two was meant cannot be known."""
        with pytest.raises(BadRequestError, match=said):
            request_of(**fields)

    def test_a_version_of_another_provider_is_advised_against(self) -> None:
        """It is sent as asked, and the warning points at the caller's own line."""
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
    def test_other_pairs_pass_in_silence(self, provider: str | None, version: str | None) -> None:
        """A pair is odd only if both are known and do not belong together."""
        request = GenerateRequest(prompt="a fox", provider=provider, version=version)
        assert (request.provider, request.version) == (provider, version)

    def test_a_request_is_frozen(self) -> None:
        """What was checked stays checked."""
        with pytest.raises(dataclasses.FrozenInstanceError):
            GenerateRequest(prompt="a fox").prompt = ""  # type: ignore[misc]

    @pytest.mark.parametrize(
        "how", [lambda value: pickle.loads(pickle.dumps(value)), copy.copy, copy.deepcopy]
    )
    def test_a_request_travels(self, how: Any) -> None:
        """Between processes, and into copies."""
        request = GenerateRequest(prompt="a fox 🦊", width=512, options={"seed": 7})
        assert how(request) == request


class TestDefaults:
    def test_they_fill_what_is_open(self) -> None:
        """The provider, the type that it makes, and the size of a picture."""
        request = GenerateRequest(prompt="a fox").with_defaults(provider="flux-krea", width=512, height=256)
        assert (request.provider, request.type, request.width, request.height) == (
            "flux-krea",
            MediaType.IMAGE,
            512,
            256,
        )

    def test_they_change_nothing_that_was_said(self) -> None:
        """Neither by name nor in the options."""
        said = GenerateRequest(prompt="a fox", provider="flux-pro", type="HOLOGRAM", width=64, height=32)
        assert said.with_defaults(provider="kling", width=512, height=512) == said

    @pytest.mark.parametrize(("name", "other"), [("width", "height"), ("height", "width")])
    def test_a_side_in_the_options_is_said(self, name: str, other: str) -> None:
        """The default then fills only the other side, and nothing is said twice."""
        request = request_of(options={name: 64}).with_defaults(provider="flux-pro", width=512, height=512)
        assert (getattr(request, name), getattr(request, other)) == (None, 512)

    @pytest.mark.parametrize("provider", ["kling", "hedra", "elevenlabs"])
    def test_only_pictures_get_a_size(self, provider: str) -> None:
        """The reference shows no width for video, avatars or speech."""
        request = GenerateRequest(prompt="a fox").with_defaults(provider=provider, width=512, height=512)
        assert (request.width, request.height) == (None, None)
        assert request.type != MediaType.IMAGE

    def test_a_size_that_was_said_is_sent_for_any_type(self) -> None:
        """The client does not know better than the caller."""
        asked = GenerateRequest(prompt="a fox", provider="kling", width=640)
        assert asked.with_defaults(provider="flux-pro", width=512, height=512).width == 640

    def test_a_version_of_another_provider_than_the_default_is_pointed_out_once(self) -> None:
        """Only then is it known which provider is meant; a request that named one was told before."""
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
        """Fields that were left alone arrive as None and say nothing."""
        request = GenerateRequest(prompt="a fox")
        assert as_request(request, width=None, provider=None) is request

    def test_a_whole_request_takes_no_fields(self) -> None:
        """All that stand beside it are named."""
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
        """The pages show lower case; GraphQL enums are upper case elsewhere."""
        assert JobStatus(spelled) is JobStatus.COMPLETED

    @pytest.mark.parametrize("status", JobStatus)
    def test_every_known_word_waits_succeeds_or_fails(self, status: JobStatus) -> None:
        """Exactly one of the three."""
        waits = status.value in {"queued", "pending", "starting", "processing", "running"}
        assert [waits, status.is_success, status.is_failure].count(True) == 1
        assert status.is_terminal is not waits
        assert status.is_known

    def test_only_completed_is_success(self) -> None:
        """It is the only end that the reference shows."""
        assert [status for status in JobStatus if status.is_success] == [JobStatus.COMPLETED]

    def test_an_unknown_word_is_kept_and_waits(self) -> None:
        """No paid job is given up for a new word."""
        word = JobStatus("Up-Scaling")
        assert word == "Up-Scaling"
        assert str(word) == word.value == "Up-Scaling"
        assert {word.is_known, word.is_terminal, word.is_success, word.is_failure} == {False}

    @pytest.mark.parametrize("bare", sorted(FAILURE_WORDS))
    def test_further_words_of_failures_are_kept_and_fail(self, bare: str) -> None:
        """An assumption, as all but two words are; case and joints make no difference."""
        for spelled in (bare, bare.upper(), f" {bare[:3]}-{bare[3:]} ", f"{bare[:4]}_{bare[4:]}"):
            word = JobStatus(spelled)
            assert word == spelled or word in JobStatus
            assert [word.is_known, word.is_terminal, word.is_failure, word.is_success] == [True] * 3 + [False]

    @pytest.mark.parametrize(
        "word", ["aborted", "Timed-Out", "timedOut", "TIMED OUT", "blocked", "moderated", "Content Moderated"]
    )
    def test_words_that_other_services_end_with_are_among_them(self, word: str) -> None:
        """Each would be polled until the timeout."""
        assert JobStatus(word).is_failure

    @pytest.mark.parametrize(
        "word", ["in_progress", "paused", "blocking", "not failed", "moderating", "retry"]
    )
    def test_words_that_resemble_them_are_not(self, word: str) -> None:
        """A job that goes on must not be given up."""
        assert not JobStatus(word).is_known

    def test_a_setting_makes_a_failure_of_a_word_and_of_no_other(self) -> None:
        """It stays as it was spelled."""
        news = Generation(id="abc", status=JobStatus("With-Drawn"))
        failed = with_failures(news, {"withdrawn"})
        assert (failed.status, failed.status.is_failure) == ("With-Drawn", True)
        assert not JobStatus("With-Drawn").is_failure
        assert with_failures(news, {"other"}) is news
        done = Generation(id="abc", status=JobStatus.COMPLETED)
        assert with_failures(done, {"completed"}) is done

    def test_a_word_called_unknown_is_unknown(self) -> None:
        """Neither the word nor its mark in here turns into the other."""
        assert not JobStatus("unknown").is_known
        assert not JobStatus("UNKNOWN").is_terminal

    def test_unknown_words_are_told_apart(self) -> None:
        """As values and in sets; the same word twice is the same."""
        assert JobStatus("upscaling") != JobStatus("tiling")
        assert {JobStatus("upscaling"), JobStatus("upscaling")} == {"upscaling"}

    def test_an_unknown_word_is_no_member_for_good(self) -> None:
        """The service cannot make this client's list grow."""
        JobStatus("upscaling")
        assert "upscaling" not in [status.value for status in JobStatus]

    @pytest.mark.parametrize("word", [JobStatus.FAILED, JobStatus("up-scaling"), WITHDRAWN])
    def test_words_travel(self, word: JobStatus) -> None:
        """By pickle and by copy, known or not."""
        for twin in (pickle.loads(pickle.dumps(word)), copy.copy(word), copy.deepcopy(word)):
            assert isinstance(twin, JobStatus)
            assert (twin, twin.is_known) == (word, word.is_known)
            assert twin.is_failure is word.is_failure

    @pytest.mark.parametrize("word", ["", "  ", None, 5, True, ["completed"]])
    def test_a_status_is_a_word(self, word: Any) -> None:
        """Anything else is no status."""
        with pytest.raises(ValueError, match=r"a status is a word"):
            JobStatus(word)


class TestGeneration:
    def test_id_and_status_are_enough(self) -> None:
        """The rest is None until the service tells it."""
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
        """It is None, as if it had not come."""
        fields: dict[str, Any] = {"id": "abc", "status": "completed", name: value}
        assert getattr(Generation(**fields), name) is None

    def test_metadata_that_is_not_json_is_none(self) -> None:
        """It is a JSON scalar of the service's own."""
        fields: dict[str, Any] = {"id": "abc", "status": "completed", "metadata": object()}
        assert Generation(**fields).metadata is None

    def test_fields_are_read_generously(self) -> None:
        """A number for an id, a text for a number, ISO 8601 for a moment."""
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

    def test_a_refusal_shows_nothing_of_the_answer(self) -> None:
        """A validation error may end in a log, and the answer may hold a signed URL."""
        fields: dict[str, Any] = {"id": ["https://cdn.example/secret"], "status": "completed"}
        with pytest.raises(ValidationError) as caught:
            Generation(**fields)
        assert "secret" not in str(caught.value)

    def test_a_snapshot_travels(self) -> None:
        """It rides in errors, which are pickled."""
        snapshot = Generation(id="abc", status=JobStatus("tiling"), metadata={"a": [1]})
        assert pickle.loads(pickle.dumps(snapshot)) == snapshot
        assert copy.deepcopy(snapshot) == snapshot

    def test_a_snapshot_is_frozen(self) -> None:
        """It is what was seen once."""
        with pytest.raises(dataclasses.FrozenInstanceError):
            Generation(id="abc", status=JobStatus.FAILED).url = "x"  # type: ignore[misc]
