"""Servers that take less than others: no system turn, few pictures, short answers; and what the record keeps of it."""

import json
import time
from pathlib import Path

import pytest
from conftest import Endpoint, completion, texts
from consultations import (
    ADVICE,
    INTERVENE,
    RULE,
    acts,
    both,
    consult,
    consultant,  # noqa: F401
    error,
    exchanges,
    failures,
    finish,
)

from supervision.answers import SupervisionError, parse_advice
from supervision.chat import Question
from supervision.endpoint import few

# -- no system turn ----------------------------------------------------------------------------------------------------

NO_SYSTEM = {  # what servers say, with the status
    "Gemma's template, vLLM": (400, "System role not supported"),
    "Gemma's template, llama.cpp": (500, "Jinja Exception: System role not supported at row 1, column 5"),
    "Gemma's template, alternate": (400, "Conversation roles must alternate user/assistant/user/assistant/..."),
    "Mistral": (400, "After the optional system message, conversation roles must alternate user/assistant"),
    "Mistral, old": (400, "Only user and assistant roles are supported!"),
    "OpenAI, o1": (400, "Unsupported value: 'messages[0].role' does not support 'system' with this model."),
    "a gateway": (422, "messages[0]: unsupported role: system"),
    "another": (400, "Developer instruction is not enabled; system messages are not supported by this model"),
}


@pytest.mark.alone
@pytest.mark.parametrize("server", NO_SYSTEM)
def test_a_server_without_a_system_turn_is_given_the_text_in_the_first_turn(server, consultant):
    """Asked again once and at once, and remembered; the conversation about a refused answer goes on in the same way."""
    status, text = NO_SYSTEM[server]
    answers = iter([json.dumps(ADVICE | {"intervene": "yes"}), INTERVENE, RULE, INTERVENE, RULE])

    def script(body, n):
        return (status, error(text)) if body["messages"][0]["role"] == "system" else next(answers)

    with Endpoint(script) as endpoint:
        it = consultant(endpoint.url)
        started = time.time()
        assert consult(it) is not None and consult(it, 30) is not None and failures(it) == 0
        assert time.time() - started < 4  # no pauses, of 500 neither
        finish(it)
    roles = [[turn["role"] for turn in request["messages"]] for request in endpoint.requests]
    assert roles == [["system", "user"], ["user"], ["user", "assistant", "user"], ["system", "user"], *[["user"]] * 3]
    first, again = (request["messages"] for request in endpoint.requests[:2])
    assert again[0]["content"] == f"{first[0]['content']}\n\n{first[1]['content']}"
    assert all("response_format" in endpoint.requests[i] for i in (0, 1, 2, 5))  # nothing else is given up
    record = exchanges("run")[0]
    assert record["refused"] == ["system"] and record["messages"] == first
    (attempt,) = record["attempts"]
    assert attempt["system"] is True and text in attempt["error"] and attempt["answer"] is None


SHOWN = "Pictures of steps that are in the tables above, in order: "


def test_pictures_stay_with_the_first_turn(consultant):
    def script(body, n):
        return (400, error("System role not supported")) if body["messages"][0]["role"] == "system" else "yes"

    with Endpoint(script) as endpoint:
        assert ask(consultant(endpoint.url).supervisor.chat, 2) == "yes"
    (turn,) = endpoint.requests[1]["messages"]
    text, *pictures = turn["content"]
    assert text["text"] == f"Answer in JSON.\n\nLook.\n\n{SHOWN}unguided t=0, unguided t=1." and len(pictures) == 2


# -- few pictures ------------------------------------------------------------------------------------------------------


def ask(chat, pictures: int) -> str:
    """A question with so many pictures."""
    turns = [{"role": "system", "content": "Answer in JSON."}, {"role": "user", "content": "Look."}]
    exchange = chat.ask(
        Question("advisor", "m", 0, "", turns, [(f"unguided t={i}", b"%d" % i) for i in range(pictures)])
    )
    exchange.wait()
    return chat.finish(exchange)


def shown(request: dict) -> int:
    """How many pictures a request has."""
    content = next(turn["content"] for turn in request["messages"] if turn["role"] == "user")
    return sum(part["type"] == "image_url" for part in content) if isinstance(content, list) else 0


FEW = {  # what a server says, how many it takes, and how many it is sent, question by question
    "vLLM": ("At most 1 image(s) may be provided in one request.", 1, [8, 1], [1]),
    "vLLM, newer": (
        "You set image=4 (or defaulted to 1) in `--limit-mm-per-prompt`, but passed 8 image items in the same prompt.",
        4, [8, 4], [4],
    ),
    "vLLM, none": ("At most 0 image(s) may be provided in one request.", 0, [8, 0], [0]),
    "Ollama": ("vision model only supports a single image per message", 1, [8, 1], [1]),
    "Groq": ("Too many images provided. This model supports up to 5 images", 5, [8, 5], [5]),
    "one that does not say how many": ("too many images", 3, [8, 4, 2], [2]),
    "one that is wrong about itself": ("only 8 images are allowed", 1, [8, 4, 2, 1], [1]),
    "one that takes none after all": ("multiple images are not supported", 0, [8, 4, 2, 1, 0], [0]),
}  # fmt: skip


@pytest.mark.parametrize("server", FEW)
def test_a_server_of_few_pictures_is_shown_few(server, consultant, capsys):
    text, most, first, second = FEW[server]
    with Endpoint(lambda body, n: (400, error(text)) if shown(body) > most else "yes") as endpoint:
        it = consultant(endpoint.url)
        assert ask(it.supervisor.chat, 8) == "yes"
        assert [shown(request) for request in endpoint.requests] == first
        assert ask(it.supervisor.chat, 8) == "yes" and ask(it.supervisor.chat, 0) == "yes"
        assert [shown(request) for request in endpoint.requests[len(first) :]] == [*second, 0]
    assert "response_format" in endpoint.requests[-1]
    told = f"at most {second[0]} pictures" if second[0] else "no pictures: states only from now on"
    assert capsys.readouterr().out.count(f"supervisor: m takes {told}\n") == 1
    record = exchanges("run")[0]
    assert record["refused"] == ["pictures"]
    assert [attempt["pictures"] for attempt in record["attempts"]] == first[:-1]


def test_which_pictures_are_shown():
    """The last one, which shows what became of the episode, and others evenly spaced."""
    pictures = [(f"t={i}", b"") for i in range(8)]
    assert [[int(what[2:]) for what, _ in few(pictures, n)] for n in (0, 1, 2, 3, 8, 9)] == [
        [], [7], [0, 7], [0, 3, 7], [*range(8)], [*range(8)],
    ]  # fmt: skip


def test_the_users_word_about_pictures_holds_here_too(consultant):
    with Endpoint(lambda body, n: (400, error("At most 1 image(s)"))) as endpoint:
        it = consultant(endpoint.url, advisor_vision="on")
        with pytest.raises(RuntimeError):
            ask(it.supervisor.chat, 8)
    assert {shown(request) for request in endpoint.requests} == {8}


# -- answers that were cut ---------------------------------------------------------------------------------------------


def cut_answer(text: str, finish_reason: str = "length"):
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text}}
    return 200, completion("", choices=[choice])


@pytest.mark.parametrize("finish_reason", ["length", "MAX_TOKENS"])
@pytest.mark.parametrize("half", [INTERVENE[:40], "", None])
def test_a_cut_answer_is_asked_for_again_with_room(half, finish_reason, consultant):
    """Both are paid, and both are in the record."""

    def script(body, n):
        return cut_answer(half, finish_reason) if n == 0 else both()(body, n)

    with Endpoint(script) as endpoint:
        it = consultant(endpoint.url)
        assert consult(it) is not None and failures(it) == 0
    assert [request.get("max_tokens") for request in endpoint.requests] == [None, 16_384, None]
    assert endpoint.requests[0] == {k: v for k, v in endpoint.requests[1].items() if k != "max_tokens"}
    record = exchanges("run")[0]
    assert record["calls"] == 2 and record["usage"]["total_tokens"] == 30 and not record["cut"]
    assert record["attempts"][0]["answer"] == (half or None) and record["answer"] == INTERVENE


def test_an_answer_that_is_cut_again_is_said_to_be_cut(consultant, capsys):
    """Its author is told to be shorter."""
    with Endpoint(lambda body, n: cut_answer(INTERVENE[:40]) if n < 2 else both()(body, n)) as endpoint:
        it = consultant(endpoint.url)
        assert consult(it) is not None
    told = endpoint.requests[2]["messages"][-1]["content"]
    assert "the server cut the answer at its limit of tokens, so be shorter" in told
    with Endpoint(lambda body, n: INTERVENE if body["model"] == "an-advisor" else cut_answer(RULE[:60])) as endpoint:
        assert consult(consultant(endpoint.url, "coder", coder_attempts=2)) is None
    assert "no complete code block; the server cut the answer at its limit of tokens" in capsys.readouterr().out
    with Endpoint(lambda body, n: cut_answer("")) as endpoint:
        assert consult(consultant(endpoint.url, "empty")) is None
    assert "an empty answer (finish reason: length): the server's limit of tokens" in capsys.readouterr().out


def test_a_cut_answer_that_says_all_is_used(consultant):
    """The server ended a model that would have gone on for ever."""
    with Endpoint(lambda body, n: cut_answer(both()(body, n) + "\nAnd so on, and so on")) as endpoint:
        it = consultant(endpoint.url)
        assert consult(it) is not None
        assert len(endpoint.requests) == 4


def test_a_server_that_has_no_such_room_is_asked_for_less(consultant):
    """And one that knows the limit by its new name."""

    def script(body, n):
        if body["model"] == "a-coder":
            return RULE
        if body.get("max_completion_tokens") == 4_096:
            return INTERVENE
        if "max_tokens" in body:
            return 400, error("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        if "max_completion_tokens" in body:
            return 400, error("max_completion_tokens is too large: the context length is 8192 tokens")
        return cut_answer(INTERVENE[:40])

    with Endpoint(script) as endpoint:
        it = consultant(endpoint.url)
        assert consult(it) is not None
    rooms = [(r.get("max_tokens"), r.get("max_completion_tokens")) for r in endpoint.requests]
    assert rooms == [(None, None), (16_384, None), (None, 16_384), (None, 8_192), (None, 4_096), (None, None)]
    assert exchanges("run")[0]["calls"] == 2  # refusals cost nothing


def test_a_cut_answer_is_not_lost_where_room_is_refused(consultant):
    """It may be whole."""

    def script(body, n):
        return (400, error("no")) if "max_tokens" in body else cut_answer(both()(body, n))

    with Endpoint(script) as endpoint:
        assert consult(consultant(endpoint.url)) is not None


def test_the_budget_holds_for_the_second_asking(consultant):
    with Endpoint(lambda body, n: cut_answer(INTERVENE[:40])) as endpoint:
        it = consultant(endpoint.url, llm_max_calls=1)
        assert consult(it) is None and len(endpoint.requests) == 1


# -- the record --------------------------------------------------------------------------------------------------------


def odd_server(body, n):
    """Wants no system turn, takes no schema, cuts its answers."""
    if body["messages"][0]["role"] == "system":
        return 400, error("System role not supported")
    if "response_format" in body:
        return 400, error("response_format is not supported")
    if "max_tokens" not in body:
        return cut_answer("Well,")
    return both()(body, n)


def test_a_run_with_such_a_server_is_repeated_with_all_that_was_asked(consultant):
    with Endpoint(odd_server) as endpoint:
        it = consultant(endpoint.url)
        assert consult(it) is not None
        finish(it)
    again = consultant(None, "again", llm_log="runs/run/llm")
    assert consult(again) is not None
    finish(again)
    first, second = ([record | {"time": ""} for record in exchanges(run)] for run in ("run", "again"))
    assert first == second and [len(record["attempts"]) for record in first] == [3, 2]
    assert first[0]["refused"] == ["schema", "system"] and first[0]["calls"] == 2
    assert sum(len(record["attempts"]) + 1 for record in first) == len(endpoint.requests)


def test_what_was_asked_before_the_deadline_is_in_the_record(consultant):
    def script(body, n):
        return (400, error("System role not supported")) if n == 0 else time.sleep(3) or INTERVENE

    with Endpoint(script) as endpoint:
        assert consult(consultant(endpoint.url, llm_timeout=1.0)) is None
    (record,) = exchanges("run")
    assert "no answer within 1 s" in record["error"] and len(record["attempts"]) == 1


def test_a_record_of_before_is_repeated(consultant, monkeypatch):
    """Without the fields that are new, and with a refusal of an answer that is understood today."""
    answers = iter([INTERVENE.replace("false}", "false,}"), INTERVENE, "I cannot write code.", RULE])
    old = "the advisor's answer is unusable: it holds no complete JSON object"

    def parse(answer, *options):
        if answer.endswith(",}"):
            raise SupervisionError(old)
        return parse_advice(answer, *options)

    with Endpoint(lambda body, n: next(answers)) as endpoint, monkeypatch.context() as context:
        context.setattr("supervision.chat.parse_advice", parse)
        it = consultant(endpoint.url)
        assert consult(it) is not None
        finish(it)
    for path in Path("runs/run/llm").glob("*.json"):
        record = json.loads(path.read_text())
        record = {key: value for key, value in record.items() if key not in ("cut", "attempts")}
        path.write_text("\ufeff" + json.dumps(record))  # a byte-order mark, as an editor may leave it
    again = consultant(None, "again", llm_log="runs/run/llm")
    assert acts(consult(again)) == [[0.5]]
    finish(again)
    verdicts = [record["verdict"] for record in exchanges("again")]
    assert verdicts[0] == f"refused: {old}" and "no code block" in verdicts[2] and verdicts[3].startswith("guiding")
    assert texts("again", "supervisor/verdict") == texts("run", "supervisor/verdict")
