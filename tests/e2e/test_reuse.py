"""What the nodes still hold of an earlier answer is used again, and not a bit of the next one changes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from kit.processes import LOCAL, ONE_THREAD
from potluck.local import LocalSwarm
from potluck.types import even_spans

TURN = "Tell me what people bring to a potluck dinner, and why."


@pytest.fixture
def fresh(tiny):
    """Another swarm of the tiny model, where nothing is parked."""
    with LocalSwarm(tiny, even_spans(6, 2), serve=LOCAL, join=ONE_THREAD) as swarm:
        swarm.wait_covered()
        yield swarm


def complete(client, prompt: list[int], tokens: int = 24, **options: Any):
    reply = client.completions.create(
        model="tiny",
        prompt=prompt,
        max_tokens=tokens,
        logprobs=3,
        extra_body={"ignore_eos": True},
        **{"temperature": 0, **options},
    )
    return reply.choices[0], reply.usage.prompt_tokens_details.cached_tokens


def check_unsplit(unsplit, prompt: list[int], choice, tokens: int = 24) -> None:
    """The unsplit model gives this greedy answer, with the same log-probabilities bit for bit."""
    answer = unsplit.greedy(prompt, tokens, ignore_eos=True)
    assert choice.logprobs.token_logprobs == unsplit.score([*prompt, *answer])[len(prompt) - 1 :]


def test_the_second_turn_of_a_chat_is_that_of_a_fresh_swarm(tiny_swarm, fresh, client_of):
    def chat(swarm, *messages: str):
        roles = ("user", "assistant")
        reply = client_of(swarm).chat.completions.create(
            model="tiny",
            messages=[{"role": roles[number % 2], "content": content} for number, content in enumerate(messages)],
            temperature=0,
            max_tokens=20,
            logprobs=True,
            top_logprobs=2,
        )
        return reply.choices[0], reply.usage.prompt_tokens_details.cached_tokens

    first, _ = chat(tiny_swarm, TURN)
    turns = (TURN, first.message.content, "And then?")
    second, cached = chat(tiny_swarm, *turns)
    alone, none = chat(fresh, *turns)
    assert cached > len(TURN) // 8
    assert none == 0
    assert second == alone


def test_after_a_node_has_left_only_its_heir_computes_more_than_what_is_new(tiny, tiny_unsplit, client_of, alice):
    """One turn of a chat after another, and between them nodes are killed or leave. Not a bit changes."""
    text, spans, turn = tiny_unsplit.encode(alice), even_spans(6, 3), list[int]()
    with LocalSwarm(tiny, spans, serve=[*LOCAL, "--audit", "0"], join=ONE_THREAD) as swarm:
        swarm.wait_covered()
        client, nodes = client_of(swarm), swarm.nodes[:]
        turn = text[:300]
        complete(client, turn, 1)
        for place, killed in ((1, True), (2, False), (0, True)):
            held = len(turn)
            turn = [*turn, *text[held : held + 40]]
            if killed:
                nodes[place].popen.kill()
                nodes[place].wait()
            else:
                nodes[place].stop()
            swarm.wait_until(lambda status: len(status["nodes"]) == 2)
            nodes[place] = swarm.add_node(str(spans[place]))
            swarm.wait_until(lambda status: [one["state"] for one in status["nodes"]] == ["ready"] * 3)
            before = rows_of(swarm)
            choice, cached = complete(client, turn, 1)
            assert cached == held
            check_unsplit(tiny_unsplit, turn, choice, 1)
            assert {span: rows - before[span] for span, rows in rows_of(swarm).items()} == {
                str(span): 40 + (held if number == place else 0) for number, span in enumerate(spans)
            }


def rows_of(swarm: LocalSwarm) -> dict[str, int]:
    """The rows that each node has computed, by its span."""
    return {node["span"]: node["rows"] for node in swarm.status()["nodes"]}


def test_what_follows_an_answer_is_what_the_unsplit_model_gives(tiny_swarm, tiny_unsplit, client_of, alice):
    client, prompt = client_of(tiny_swarm), tiny_unsplit.encode(alice)[:400]
    complete(client, prompt)
    longer = [*prompt, *tiny_unsplit.greedy(prompt, 24, ignore_eos=True), *tiny_unsplit.encode("More")]
    choice, cached = complete(client, longer)
    assert cached == len(prompt) + 23  # the answer's last token was never fed
    check_unsplit(tiny_unsplit, longer, choice)


@pytest.mark.parametrize("same", [210, 256, 399])
def test_a_prompt_that_shares_only_its_beginning(tiny_swarm, tiny_unsplit, client_of, alice, same):
    client, text = client_of(tiny_swarm), tiny_unsplit.encode(alice)
    mine = text[same : same + 50]
    prompt, other = [*mine, *text[:350]], [*mine, *text[: same - 50], text[same - 50] + 1, *text[1000:1100]]
    complete(client, prompt, 1)
    choice, cached = complete(client, other)
    assert cached == same
    check_unsplit(tiny_unsplit, other, choice)


def test_a_prompt_of_several_steps_that_shares_its_beginning(tiny_swarm, fresh, client_of, tiny_unsplit, alice):
    text = tiny_unsplit.encode(alice)
    other = [*text[600:1400], *text[:700]]
    complete(client_of(tiny_swarm), text[600:1700])
    choice, cached = complete(client_of(tiny_swarm), other)
    alone, none = complete(client_of(fresh), other)
    assert (cached, none) == (800, 0)
    assert choice == alone


def test_sampling_with_a_seed_is_the_same_the_second_time(tiny_swarm, client_of, tiny_unsplit, alice):
    client, prompt = client_of(tiny_swarm), tiny_unsplit.encode(alice)[1200:1300]
    options: dict[str, Any] = {"temperature": 1.2, "top_p": 0.9, "seed": 3}
    (first, none), (second, cached) = (complete(client, prompt, **options) for _ in range(2))
    assert (none, cached) == (0, len(prompt) - 1)
    assert second == first


def test_scores_of_a_prompt_are_whole_whatever_is_parked(tiny_swarm, client_of, tiny_unsplit, alice):
    client, prompt = client_of(tiny_swarm), tiny_unsplit.encode(alice)[1400:1500]
    complete(client, prompt)
    choice, cached = complete(client, prompt, 0, echo=True)
    assert cached == 0
    assert choice.logprobs.token_logprobs == [None, *tiny_unsplit.score(prompt)]


def test_chats_side_by_side_each_find_their_own_session(tiny_swarm, client_of, tiny_unsplit, alice):
    """Turns of several at once, over sessions that end, give way and go on in any order."""
    client, text = client_of(tiny_swarm), tiny_unsplit.encode(alice)
    prompts = [text[2000 + 100 * number :][: 60 + 10 * number] for number in range(6)]
    with ThreadPoolExecutor(len(prompts)) as threads:
        list(threads.map(lambda prompt: complete(client, prompt), prompts))
        turns = [[*prompt, *text[3000:3020]] for prompt in prompts]
        answers = list(threads.map(lambda turn: complete(client, turn), turns))
    for prompt, turn, (choice, cached) in zip(prompts, turns, answers, strict=True):
        assert cached == len(prompt)
        check_unsplit(tiny_unsplit, turn, choice)


def test_what_is_parked_makes_way_for_eight_answers_of_full_length(tiny_swarm, client_of, tiny_unsplit, alice):
    """They hold all KV cells of every node, and are no longer counted once their clients are gone."""
    client, text = client_of(tiny_swarm), tiny_unsplit.encode(alice)
    for number in range(3):
        complete(client, text[500 * number :][:100])

    def sessions() -> list[int]:
        return [node["sessions"] for node in tiny_swarm.status()["nodes"]]

    assert sessions() == [0, 0, 0]
    before = tiny_swarm.status()["tokens"]
    request = {"model": "tiny", "prompt": text[:96], "max_tokens": 4000, "extra_body": {"ignore_eos": True}}
    with ExitStack() as streams:
        for _ in range(8):
            next(iter(streams.enter_context(client.completions.create(stream=True, **request))))
        assert sessions() == [8, 8, 8]
    tiny_swarm.wait_until(lambda _: sessions() == [0, 0, 0])
    assert tiny_swarm.status()["tokens"] - before < 8 * 4000 / 2  # they were not written on for nobody
    [end] = sorted(tiny_unsplit.tokenizer.stop_ids)[:1]
    ended = client.completions.create(model="tiny", prompt=text[:96], max_tokens=4000, n=8, logit_bias={str(end): 100})
    assert [choice.finish_reason for choice in ended.choices] == ["stop"] * 8
    assert sessions() == [0, 0, 0]


def test_an_answer_has_its_least_tokens(tiny_swarm, client_of, tiny_unsplit, alice):
    prompt, [end] = tiny_unsplit.encode(alice)[:100], sorted(tiny_unsplit.tokenizer.stop_ids)[:1]
    for least in (0, 7):
        reply = client_of(tiny_swarm).completions.create(
            model="tiny",
            prompt=prompt,
            max_tokens=20,
            temperature=0,
            logit_bias={str(end): 100},
            extra_body={"min_tokens": least},
        )
        assert (reply.choices[0].finish_reason, reply.usage.completion_tokens) == ("stop", least + 1)
