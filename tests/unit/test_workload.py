"""Generated traffic: the same from the same seed, with the shares of its mix."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

from usage_worker.bench.load import AGENTS, Load
from usage_worker.testing import Mix, Population, generate_usage

POPULATION = Population.of(20, 10)
EVENTS = 10_000


def pair_shares(mix: Mix, seed: int = 1) -> list[tuple[object, float]]:
    """Return the pairs with their share of the events, the busiest first."""
    pairs = Counter((it["user_id"], it["agent_id"]) for it in generate_usage(POPULATION, EVENTS, mix, seed))
    return [(pair, count / EVENTS) for pair, count in pairs.most_common()]


def test_equal_arguments_generate_equal_events() -> None:
    first, again, other = (list(generate_usage(POPULATION, 100, "production", seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_population_is_same_in_every_process() -> None:
    print_ids = "from usage_worker.testing import Population; print(Population.of(1, 1, 3).pairs())"
    output = subprocess.run([sys.executable, "-c", print_ids], check=True, capture_output=True, text=True).stdout
    assert output.strip() == str(Population.of(1, 1, 3).pairs())
    assert Population.of(1, 1, 3) != Population.of(1, 1, 4)


def test_production_mix_has_observed_shares() -> None:
    shares = [share for _, share in pair_shares("production")]
    assert abs(shares[0] - 0.35) < 0.02
    assert abs(sum(shares[:5]) - 0.78) < 0.02
    assert abs(sum(shares[:10]) - 0.90) < 0.02


def test_seeds_agree_on_busiest_pair() -> None:
    assert pair_shares("production", seed=1)[0][0] == pair_shares("production", seed=2)[0][0]


def test_uniform_mix_has_no_busy_pair() -> None:
    shares = [share for _, share in pair_shares("uniform")]
    assert len(shares) == len(POPULATION.pairs())
    assert shares[0] < 0.01


def test_conversation_belongs_to_one_pair_and_averages_five_uses() -> None:
    pairs = Counter(
        (it["user_id"], it["agent_id"], it["conversation_id"])
        for it in generate_usage(POPULATION, EVENTS, "uniform", 1)
    )
    assert len({conversation for *_, conversation in pairs}) == len(pairs)
    assert abs(EVENTS / len(pairs) - 5) < 1


def test_failed_request_has_no_response_time() -> None:
    events = list(generate_usage(POPULATION, EVENTS, "uniform", 1))
    assert all((event["response_time_ms"] is None) == (not event["success"]) for event in events)
    assert abs(sum(event["success"] for event in events) / EVENTS - 0.97) < 0.01


def test_load_survives_command_line_of_sender() -> None:
    load = Load(100, "production", seed=7, users=3, rate=12.5)
    received = Load.from_arguments(load.arguments())
    assert received == load
    assert list(received.generate()) == list(load.generate())
    assert len(load.population.pairs()) == 3 * AGENTS


def test_testing_package_needs_only_base_installation() -> None:
    print_server_modules = (
        "import sys, usage_worker.testing;"
        "print({'psycopg', 'celery', 'kombu', 'typer'} & {name.partition('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-c", print_server_modules]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert output.strip() == "set()"
