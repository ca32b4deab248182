"""Two minutes of chaos on real processes, of other faults each time: the long form is `make chaos`."""

import os
import random
from pathlib import Path

import pytest

from chaos_real.run import Options, run
from kafka_fixtures import KafkaUnderTest

SECONDS = 60.0  # of faults; starting, settling and judging take as long again
SEED_VARIABLE = "COMMONPLACE_CHAOS_SEED"


@pytest.mark.real_kafka
@pytest.mark.timeout(600)
def test_a_minute_of_faults_breaks_no_promise(kafka: KafkaUnderTest, tmp_path: Path) -> None:
    if kafka.kind != "local":
        pytest.skip(f"chaos kills and fills the disk of a broker of its own, which needs Java; these tests use {kafka}")
    seed = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(1_000_000))
    outcome = run(Options(seed=seed, seconds=SECONDS, keep=tmp_path, swarm=False))
    told = f"{SEED_VARIABLE}={seed} draws the same faults again; all is in {outcome.directory}"
    assert not outcome.violations, f"{outcome.violations[:5]}\n{told}"
    assert outcome.audit["audit"] == "clean"
    assert len(outcome.injections) >= 15, outcome.injections
    assert outcome.figures["confirmed"] > 100, outcome.figures
