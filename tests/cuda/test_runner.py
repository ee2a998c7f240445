"""The engine's runner over kernels: prefixes, shared prompts and steps on a card, as elsewhere."""

from __future__ import annotations

import torch

from model.kernels.launcher import Launcher
from model.prefix import Prefix
from model.runner import Answer, ChatGLMRunner, Prompt
from model.types import GenerationParams
from tests.cuda.emulator import Emulator
from tests.cuda.networks import CONFIG, fused_network
from tests.cuda.test_fused import prompt


def runner_of(launcher: Launcher, prefix: Prefix) -> ChatGLMRunner:
    return ChatGLMRunner(
        fused_network(launcher),
        pages=60,
        storage="int8",
        vocabulary=310,
        prefixes={"shop": prefix},
        context=200,
    )


def read(runner: ChatGLMRunner, prompts: list[Prompt]) -> list[Answer]:
    answers = list[Answer]()
    for one in prompts:
        answer, known = runner.open(one)
        if not known:
            reading = runner.reading([answer])
            while not reading.step():
                pass
            runner.has_read(answer)
        answers.append(answer)
    return answers


def test_steps_are_made_on_the_card_and_give_the_same_answers(emulator: Emulator) -> None:
    prefix = Prefix(torch.randn(2, 2, 21, 2, 128).half(), "shop")
    prompts = [
        Prompt(tuple(prompt(9, 1)), 8, GenerationParams(seed=1, prefix="shop")),
        Prompt(tuple(prompt(9, 1)), 8, GenerationParams(seed=2)),
        Prompt(tuple(prompt(9, 1)), 8, GenerationParams(seed=3)),  # read already
        Prompt(tuple(prompt(40, 2)), 8, GenerationParams(temperature=0, repetition_penalty=1.2)),
    ]
    on_card, by_launches = runner_of(emulator, prefix), runner_of(emulator, prefix)
    by_launches._decoder = None
    mine, theirs = read(on_card, prompts), read(by_launches, prompts)
    with emulator.counted() as counted:
        for _ in range(7):
            assert on_card.decode(mine) == by_launches.decode(theirs)
    assert counted["sample"].barrier > 0
    assert len({token for answer in mine for token in answer.ids}) > 30
    for answer in mine:
        on_card.close(answer)
    on_card.forget()
    held = -(-21 // 16)
    assert on_card.pages.free == on_card.pages.count - held


def test_answers_that_the_card_cannot_take_go_the_usual_way(emulator: Emulator) -> None:
    runner = runner_of(emulator, Prefix(torch.randn(2, 2, 5, 2, 128).half(), "shop"))
    answers = read(runner, [Prompt(tuple(prompt(9, 1)), 8), Prompt(tuple(prompt(5, 2)), 8)])
    answers[0].pending = [CONFIG.bos_token_id, 44]  # an answer that goes on where it was
    answers[0].ids.append(44)
    with emulator.counted() as counted:
        outcomes = runner.decode(answers)
    assert all(isinstance(outcome, int) for outcome in outcomes)
    assert "sample" not in counted
    assert all(isinstance(outcome, int) for outcome in runner.decode(answers))
