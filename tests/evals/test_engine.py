"""Runs that were parked, killed or moved come to what the uninterrupted run comes to, row by row."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from tests.evals.evaluations import EvalLab, Model, Trial, config
from tests.support.waiting import wait_for

from rapidfireai_worker.engine import ChunkControl, Discarded, RunFailure
from rapidfireai_worker.evals import answering


@pytest.fixture
def lab(tmp_path: Path) -> EvalLab:
    return EvalLab(tmp_path)


def test_each_row_is_answered_once_in_the_order_that_the_seed_draws(lab: EvalLab) -> None:
    model = Model()
    prepared = lab.engine(model).prepare(lab.job("r1", config()))
    assert (prepared.total_steps, prepared.boundaries) == (30, [10, 20, 30])
    lab.finish(lab.engine(model), "r1", config())
    rows = lab.all_rows("r1")
    places = [row["_row"] for row in rows]
    assert sorted(places) == list(range(30))
    assert places != sorted(places)
    assert [number for batch in model.asked for number in batch] == places
    assert [len(batch) for batch in model.asked] == [4, 4, 2] * 3
    assert all(row["question"].endswith(f" {row['_row']}") for row in rows)
    assert rows[0]["prompts"] == [{"role": "user", "content": rows[0]["question"]}]
    assert [row["said"] for row in rows] == [str(n * n if n % 3 else n) for n in places]
    truth = sum(row["said"] == row["answer"] for row in rows) / 30
    assert lab.cumulative("r1")["Accuracy"]["value"] == pytest.approx(truth)
    assert lab.cumulative("r1")["Accuracy"]["margin_of_error"] == 0
    assert lab.cumulative("r1")["Samples Processed"] == {"value": 30}


def test_batches_are_under_way_together_and_concluded_in_order(lab: EvalLab) -> None:
    model = Model(in_flight=3)
    lab.finish(lab.engine(model), "r1", config(batch_size=1))
    assert model.most_under_way > 1
    alone = Model(in_flight=1)
    lab.finish(lab.engine(alone), "r2", config(batch_size=1))
    assert alone.most_under_way == 1
    assert lab.picture("r1") == lab.picture("r2")


def test_configs_see_the_same_rows_in_the_same_shards(lab: EvalLab) -> None:
    engine = lab.engine()
    lab.commit(engine, "r1", config())
    lab.commit(engine, "r2", config(batch_size=7))
    assert [row["_row"] for row in lab.all_rows("r1")] == [row["_row"] for row in lab.all_rows("r2")]
    other = EvalLab(lab.root / "other", seed=7) if (lab.root / "other").mkdir() is None else lab
    other.commit(other.engine(), "r1", config())
    assert [row["_row"] for row in other.all_rows("r1")] != [row["_row"] for row in lab.all_rows("r1")]


@pytest.mark.parametrize("story", range(12))
def test_an_interrupted_run_comes_to_what_the_uninterrupted_one_does(lab: EvalLab, story: int) -> None:
    lab.finish(lab.engine(), "plain", config())
    chance = random.Random(story)
    engine = lab.engine(Model(in_flight=chance.randint(1, 4)))
    while lab.step("told") < 30:
        match chance.choice(["commit", "park", "park", "kill", "lost", "discard", "move"]):
            case "commit":
                lab.commit(engine, "told", config())
            case "park":
                lab.commit(engine, "told", config(), Trial(stop_after=1))
            case "kill":  # in the middle of it
                lab.next_shard(engine, "told", config(), Trial())
                engine = lab.engine()
            case "lost":  # durable, and the commit never reached anybody
                lab.next_shard(engine, "told", config(), Trial()).persist()
                engine = lab.engine()
            case "discard":
                with pytest.raises(Discarded):
                    lab.next_shard(engine, "told", config(), Trial(discard_after=1))
                engine.evict("told-uid")
            case "move":
                engine = lab.engine()
    assert lab.picture("told") == lab.picture("plain")


def test_adopted_answers_are_gone_on_with_where_they_are(lab: EvalLab) -> None:
    lab.finish(lab.engine(), "plain", config())
    lab.commit(lab.engine(), "told", config())
    lab.adoptions = 1  # the run has a new UID, and its files have the one of before
    lab.finish(lab.engine(), "told", config())
    assert lab.picture("told") == lab.picture("plain")
    assert not lab.volume.run("lab-uid", "told-uid-again").root.exists()


def test_parking_commits_what_was_under_way_and_the_next_attempt_goes_on_there(lab: EvalLab) -> None:
    model, trial = Model(in_flight=1), Trial(stop_after=1)
    outcome = lab.commit(lab.engine(model), "r1", config(batch_size=3), trial)
    assert outcome.step == 3
    assert lab.lines == {}
    assert lab.directories("r1")[0].name == "3-1"
    moved = Model()
    assert lab.commit(lab.engine(moved), "r1", config(batch_size=3)).step == 10
    assert [len(batch) for batch in moved.asked] == [3, 3, 1]
    assert [line[:3] for line in lab.lines["r1"]] == [("shard", 0, 10)]


def test_discarding_ends_at_once_and_gives_up_what_is_under_way(lab: EvalLab) -> None:
    model, trial = Model(), Trial()
    model.gate.clear()
    raised: list[BaseException] = []

    def attempt() -> None:
        try:
            lab.next_shard(lab.engine(model), "r1", config(), trial)
        except Discarded as end:
            raised.append(end)

    thread = threading.Thread(target=attempt)
    thread.start()
    wait_for("batches under way", lambda: len(model.asked) == 3)
    trial.discard.set()
    thread.join(10)
    assert raised
    model.gate.set()
    wait_for("given up", lambda: model.cancelled == 3)
    assert not lab.volume.run("lab-uid", "r1-uid").shards.exists()


def test_what_a_dead_attempt_left_is_no_result_and_goes(lab: EvalLab) -> None:
    lab.next_shard(lab.engine(), "r1", config(), Trial()).persist()
    shards = lab.volume.run("lab-uid", "r1-uid").shards
    (shards / ".tmp-10-1-0123abcd").mkdir()
    assert (shards / "10-1").is_dir()
    lab.commit(lab.engine(), "r1", config())
    assert [each.name for each in shards.iterdir()] == ["10-2"]
    lab.finish(lab.engine(), "r1", config())
    assert sorted(each.name for each in shards.iterdir()) == ["10-2", "20-3", "30-4"]


@pytest.mark.parametrize("name", ["manifest.json", "batches.jsonl"])
def test_damaged_answers_are_no_answers(lab: EvalLab, name: str) -> None:
    lab.commit(lab.engine(), "r1", config())
    lab.commit(lab.engine(), "r1", config())
    path = lab.directories("r1")[0] / name
    path.write_text(path.read_text() + " ")
    failure = lab.failure(config())
    assert failure.reason == "CheckpointUnreadable"
    assert str(path.parent) in failure.message


def test_answers_of_other_code_are_not_mixed_in(lab: EvalLab) -> None:
    lab.commit(lab.engine(), "r1", config())
    lab.source = str(lab.source) + "\n# changed\n"
    assert lab.failure(config()).reason == "CodeChanged"


def test_estimates_narrow_until_all_is_known(lab: EvalLab) -> None:
    widths = []
    engine = lab.engine()
    while lab.step("r1") < 30:
        accuracy = lab.commit(engine, "r1", config()).estimates["Accuracy"]
        assert accuracy.lower is not None and accuracy.upper is not None
        assert accuracy.lower <= accuracy.value <= accuracy.upper
        widths.append(accuracy.upper - accuracy.lower)
    assert widths[0] > widths[1] > widths[2] == 0
    assert lab.lines["r1"][0][3]["Accuracy_confidence_interval"] == pytest.approx(widths[0] / 2)


def test_progress_is_reported_while_a_shard_is_under_way(lab: EvalLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "REPORT_SECONDS", 0)
    monkeypatch.setattr(answering, "_SHARE", 0)
    trial = Trial()
    lab.commit(lab.engine(Model(in_flight=1)), "r1", config(batch_size=2), trial)
    steps = [step for step, _ in trial.reports]
    assert steps == sorted(steps)
    step, values = next(report for report in trial.reports if 0 < report[0] < 10)
    assert values["Samples Processed"] == step
    assert values["Throughput"] > 0
    assert 0 <= values["Accuracy"] <= 1
    assert trial.estimates[0]["Accuracy"].upper is not None


def test_failed_rows_are_reported_not_scored_and_tried_again_first(lab: EvalLab) -> None:
    model = Model()
    first = [row["_row"] for row in (lab.finish(lab.engine(), "plain", config()), lab.all_rows("plain"))[1]]
    stubborn, brief = first[0], first[5]
    model.fails = {stubborn: 99, brief: 1}
    engine = lab.engine(model)
    outcome = lab.commit(engine, "r1", config())
    assert outcome.step == 10
    assert outcome.metrics["Failed Rows"] == 2
    assert outcome.metrics["Samples Processed"] == 8
    bad = [row for row in lab.all_rows("r1") if row["generated_text"] is None]
    assert [row["_row"] for row in bad] == [stubborn, brief]
    assert all(row["error"] == "the server said 503 five times" and row["said"] is None for row in bad)
    assert all(row["error"] is None and row["said"] for row in lab.all_rows("r1") if row not in bad)
    model.asked.clear()
    assert lab.commit(lab.engine(model), "r1", config()).metrics["Failed Rows"] == 1
    assert model.asked[0] == [stubborn, brief]
    lab.finish(engine, "r1", config())
    last = {row["_row"]: row for row in lab.all_rows("r1")}
    assert len(last) == 30
    assert last[brief]["said"] == {row["_row"]: row for row in lab.all_rows("plain")}[brief]["said"]
    assert last[stubborn]["generated_text"] is None
    assert lab.cumulative("r1")["Samples Processed"] == {"value": 29}
    scored = [row["said"] == row["answer"] for row in last.values() if row["generated_text"] is not None]
    assert lab.cumulative("r1")["Accuracy"]["value"] == pytest.approx(sum(scored) / 29)


def test_rows_that_fail_in_the_last_shard_get_one_more_try_in_it(lab: EvalLab) -> None:
    model = Model()
    engine = lab.engine(model)
    for _ in range(2):
        lab.commit(engine, "r1", config())
    model.fails = dict.fromkeys(range(30), 1)
    model.asked.clear()
    outcome = lab.commit(engine, "r1", config())
    assert (outcome.step, outcome.metrics["Failed Rows"], outcome.metrics["Samples Processed"]) == (30, 0, 30)
    asked = [number for batch in model.asked for number in batch]
    assert asked[:10] == asked[10:]
    assert lab.cumulative("r1")["Samples Processed"] == {"value": 30}


def test_a_batch_without_any_answer_calls_no_function_and_costs_no_metric(lab: EvalLab) -> None:
    model = Model()
    model.fails = dict.fromkeys(range(30), 1)
    outcome = lab.commit(lab.engine(model), "r1", config())
    assert outcome.metrics["Failed Rows"] == 10
    assert outcome.estimates == {}
    assert lab.commit(lab.engine(model), "r1", config()).metrics["Samples Processed"] == 10


def test_tokens_and_their_price_are_counted(lab: EvalLab) -> None:
    priced = config(api_config={"model_config": {"model": "m"}, "input_price": 2.0, "output_price": 10.0})
    trial = Trial()
    metrics = lab.commit(lab.engine(), "r1", priced, trial).metrics
    assert metrics["system/total_tokens"] == 80
    assert metrics["system/token_spend_usd"] == pytest.approx((50 * 2 + 30 * 10) / 1e6)
    assert metrics["system/query_latency_avg_seconds"] == pytest.approx(0.25)
    assert sum(batch.completion_tokens for batch in trial.batches) == 30


def test_rows_with_prompts_need_no_functions(lab: EvalLab) -> None:
    lab.write([{"prompt": f"square {n}"} for n in range(5)] + [{"prompt": "square 5"}])
    lab.rows, lab.source, lab.shards = 6, None, 2
    bare = {"api_config": {"model_config": {"model": "m"}}}
    lab.finish(lab.engine(), "r1", bare)
    assert len(lab.all_rows("r1")) == 6
    assert lab.all_rows("r1")[0]["prompts"][0]["role"] == "user"
    assert set(lab.cumulative("r1")) >= {"Samples Processed", "Processing Time", "Samples Per Second"}


def test_evicted_runs_go_on_and_holdings_tell_who_is_resident(lab: EvalLab) -> None:
    engine = lab.engine()
    lab.commit(engine, "r1", config())
    assert dict(engine.holdings().residents) == {"r1-uid": 0}
    assert engine.holdings().used == 1000
    engine.evict("r1-uid")
    engine.evict("nobody")
    assert engine.holdings().residents == {}
    assert lab.commit(engine, "r1", config()).step == 20


def test_a_done_shard_is_not_done_again(lab: EvalLab) -> None:
    lab.commit(lab.engine(), "r1", config())
    with pytest.raises(RunFailure, match="shard 0 ends after row 10") as failed:
        lab.engine().run_chunk(lab.job("r1", config()), 0, ChunkControl())
    assert failed.value.reason == "ChunkIsDone"
