"""The drawings of `docs/concepts.md`, as SVG files in `docs/images/`."""

from __future__ import annotations

from drawing import INK, PALE, RUNS, Drawing


def drawings() -> dict[str, str]:
    """Return the text of each drawing by its file's name."""
    made = {
        "parts": parts(),
        "chunk": chunk(),
        "turns": turns(),
        "fence": fence(),
        "storage": storage(),
        "shards": shards(),
        "steering": steering(),
    }
    return {f"{name}.svg": drawing.svg() for name, drawing in made.items()}


def parts() -> Drawing:
    """Draw who speaks with whom."""
    d = Drawing("Users write resources; operator and workers meet only in the Kubernetes API", 860, 470)
    d.box(20, 20, 190, 56, "Notebook, script", "Experiment(...)")
    d.box(250, 20, 190, 56, "kubectl, GitOps", "manifests")
    d.box(480, 20, 160, 56, "Browser", ":8853")
    d.box(670, 20, 170, 56, "Any program", ":8851")
    d.box(480, 120, 360, 56, "Gateway and dashboard", "no rights: acts with its caller's token", kind="ours")
    d.box(20, 215, 820, 62, "Kubernetes API", "Experiment, Run, ICOp: what is wanted, and what is", kind="api")
    d.box(20, 330, 250, 66, "Operator", "expands, plans, judges, steers", "2 replicas, one leads", kind="ours")
    d.box(310, 330, 250, 66, "Workers", "one Job a slot, kept warm", "run chunks, commit them", kind="ours")
    d.box(600, 330, 240, 66, "Volume service", "uploads, exports, histories", "one a workspace", kind="ours")
    d.box(310, 415, 530, 40, "Persistent volume: code, data, checkpoints, logs", kind="store")
    d.box(20, 415, 250, 40, "MLflow, Prometheus", kind="store")
    d.arrow((115, 76), (115, 215))
    d.arrow((345, 76), (345, 215))
    d.arrow((560, 76), (560, 120))
    d.arrow((755, 76), (755, 120))
    d.arrow((660, 176), (660, 215))
    d.arrow((115, 330), (115, 277), label="assigns", at=(80, 308))
    d.arrow((175, 277), (175, 330), label="watches", at=(208, 308))
    d.arrow((395, 277), (395, 330), label="its own runs", at=(352, 308))
    d.arrow((475, 330), (475, 277), label="commits, fenced", at=(527, 308))
    d.arrow((720, 330), (720, 277), label="asks who may", at=(764, 308))
    d.arrow((435, 396), (435, 415))
    d.arrow((720, 396), (720, 415))
    return d


def chunk() -> Drawing:
    """Draw the life of one chunk."""
    d = Drawing("One chunk from the plan to the commit: two writes to the API server", 860, 330)
    lanes = (("Operator", 60), ("API server", 150), ("Worker", 240))
    for name, y in lanes:
        d.text(20, y + 4, name, bold=True, size=13)
        d.rule(110, y, 840, y, dashed=True)
    d.box(120, 38, 110, 44, "1  plan", kind="ours")
    d.box(250, 128, 130, 44, "2  assignment", "attempt 7", kind="api")
    d.box(330, 218, 210, 44, "3  train the chunk", "the next one is queued already", kind="ours")
    d.box(560, 218, 120, 44, "4  checkpoint", "durable", kind="store")
    d.box(630, 128, 130, 44, "5  commit", "of attempt 7", kind="api")
    d.box(735, 38, 105, 44, "6  plan again", kind="ours")
    d.arrow((175, 82), (175, 150), (250, 150))
    d.arrow((355, 172), (355, 218))
    d.arrow((540, 240), (560, 240))
    d.arrow((660, 218), (660, 172))
    d.arrow((745, 128), (745, 105), (785, 105), (785, 82))
    d.text(
        120,
        300,
        "If anything dies before 5, the chunk is given out again from the last commit, as attempt 8.",
        colour=PALE,
    )
    d.text(120, 318, "Whatever attempt 7 still writes then is refused by the API server.", colour=PALE)
    return d


def turns() -> Drawing:
    """Draw how four runs share two workers."""
    d = Drawing("Four runs in turns on two workers, chunk by chunk", 860, 250)
    d.text(20, 62, "worker 0", bold=True, size=13)
    d.text(20, 122, "worker 1", bold=True, size=13)
    rows = ((40, (1, 3, 1, 3, 1, 3, 1, 5)), (100, (2, 4, 2, 4, 4, 5, 4, 5)))
    counts: dict[int, int] = {}
    for place in range(8):
        for y, order in rows:
            run = order[place]
            counts[run] = counts.get(run, 0) + 1
            d.bar(
                110 + place * 90,
                y,
                84,
                38,
                f"r{run}  {counts[run]}/4",
                RUNS[run - 1],
            )
    d.rule(287, 26, 287, 150, dashed=True)
    d.text(290, 168, "after one turn all four have a point on the same curve", colour=PALE)
    d.text(467, 192, "r2 loses and is stopped here; its time goes to the others", colour=PALE)
    d.rule(467, 100, 467, 180, dashed=True)
    d.text(557, 216, "r5, a warm clone of r1, joins as one of many", colour=PALE)
    d.rule(557, 100, 557, 204, dashed=True)
    d.text(
        110, 240, "A run that a worker already holds stays there: a swap is a change of thread, not a load.", colour=INK
    )
    return d


def fence() -> Drawing:
    """Draw who may write what of a run."""
    d = Drawing("The API server itself refuses whoever is not the holder of the current attempt", 860, 300)
    d.box(320, 70, 270, 170, "", kind="api")
    d.text(455, 98, "Run sft-r3, status", bold=True, size=14, anchor="middle")
    d.text(455, 128, "assignment: pod w-0-x7k2p, attempt 7", anchor="middle")
    d.text(455, 150, "progress: attempt 7, step 48", anchor="middle")
    d.text(455, 185, "ValidatingAdmissionPolicy:", anchor="middle", colour=PALE)
    d.text(455, 203, "the pod by name and UID, its attempt", anchor="middle", colour=PALE)
    d.text(455, 221, "and chunk, no step back, nothing after", anchor="middle", colour=PALE)
    d.box(20, 30, 230, 50, "Operator", "all but progress", kind="good")
    d.box(20, 130, 230, 50, "Pod w-0-x7k2p", "progress of attempt 7", kind="good")
    d.box(20, 230, 230, 50, "An administrator", "nobody is exempt", kind="bad")
    d.box(640, 30, 200, 50, "Pod of attempt 6", "was thought dead", kind="bad")
    d.box(640, 130, 200, 50, "Pod of another run", "or another name", kind="bad")
    d.box(640, 230, 200, 50, "A step backwards", "or after the final commit", kind="bad")
    d.arrow((250, 55), (320, 110), label="written", at=(296, 72))
    d.arrow((250, 155), (320, 155), label="written", at=(290, 149))
    d.arrow((250, 255), (320, 205), label="refused", at=(272, 222))
    d.arrow((640, 55), (590, 110), label="refused", at=(598, 76))
    d.arrow((640, 155), (590, 155), label="refused", at=(610, 149))
    d.arrow((640, 255), (590, 205), label="refused", at=(630, 222))
    return d


def storage() -> Drawing:
    """Draw what lies on a workspace's volume."""
    d = Drawing("What lies on a workspace's volume", 860, 300)
    shared = (
        ("bundles/SHA256", "code from Python, written once"),
        ("datasets/SHA256", "uploaded rows, written once"),
        ("prepared/SHA256", "tokenised rows, shared by runs"),
        ("indexes/SHA256", "RAG indexes, one a distinct spec"),
        ("models/", "the Hugging Face cache"),
    )
    d.text(20, 32, "shared by all experiments of the workspace", bold=True, size=13)
    for place, (name, what) in enumerate(shared):
        y = 46 + place * 48
        d.box(20, y, 380, 40, "", kind="store")
        d.text(34, y + 25, name, bold=True, size=13)
        d.text(180, y + 25, what, colour=PALE)
    d.text(450, 32, "experiments/UID/runs/UID", bold=True, size=13)
    own = (
        ("run.json", "spec, lineage, commits: can be adopted"),
        ("checkpoints/48-7/", "step 48, attempt 7, with digests"),
        ("logs/metrics.jsonl", "every metric; MLflow is fed from here"),
        ("shards/100-3/", "evaluations: answers and figures"),
    )
    for place, (name, what) in enumerate(own):
        y = 46 + place * 48
        d.box(450, y, 390, 40, "", kind="store")
        d.text(462, y + 25, name, bold=True, size=13)
        d.text(598, y + 25, what, size=11.5, colour=PALE)
    d.text(450, 262, "A directory counts once the run's commit names it and its digest;", colour=PALE)
    d.text(450, 280, "whatever else is there is garbage and goes.", colour=PALE)
    return d


def shards() -> Drawing:
    """Draw how intervals narrow until two configs are apart."""
    d = Drawing("Intervals narrow with every shard until two configs are apart", 860, 290)
    d.rule(90, 240, 820, 240)
    d.rule(90, 30, 90, 240)
    d.text(20, 40, "Accuracy", bold=True)
    estimates = (
        (RUNS[0], "r1", -14, ((96, 74), (88, 50), (84, 36), (82, 26), (82, 18), (81, 0))),
        (RUNS[2], "r2", 0, ((118, 76), (112, 52), (108, 38), (106, 28), (108, 18), (107, 0))),
        (RUNS[1], "r3", 14, ((150, 76), (172, 52), (184, 34))),
    )
    for colour, name, shift, points in estimates:
        for place, (middle, half) in enumerate(points):
            x = 160 + place * 120 + shift
            d.rule(x, middle - half, x, middle + half, colour=colour)
            d.curve([(x, middle)], colour)
        last = 160 + (len(points) - 1) * 120 + shift
        d.text(last + 10, points[-1][0] + 4, name, bold=True, colour=colour)
    for place in range(6):
        d.text(160 + place * 120, 260, f"{place + 1}/6 of the rows", anchor="middle", colour=PALE)
    d.text(396, 282, "here r3 lies wholly below r1: stopWhenBeaten stops it; r1 and r2 go on", colour=PALE)
    return d


def steering() -> Drawing:
    """Draw curves of runs that are stopped, resumed and cloned."""
    d = Drawing("Runs are stopped and cloned while they run; a warm clone begins at its parent's loss", 860, 290)
    d.rule(80, 240, 830, 240)
    d.rule(80, 24, 80, 240)
    d.text(20, 34, "eval loss", bold=True)
    d.text(830, 260, "share of the data", anchor="end", colour=PALE)
    xs = [180 + 100 * each for each in range(7)]
    d.curve(list(zip(xs, (90, 120, 142, 160, 170, 176), strict=False)), RUNS[0])
    d.curve(list(zip(xs, (70, 92, 108, 120, 128, 134), strict=False)), RUNS[1])
    d.curve(list(zip(xs, (50, 56), strict=False)), RUNS[4])
    d.curve([(380, 142), (480, 182), (580, 202), (680, 212)], RUNS[2], dashed=True)
    d.text(290, 52, "Stop: commits, rests, can be resumed", colour=RUNS[4])
    d.text(690, 138, "r2", bold=True, colour=RUNS[1])
    d.text(690, 180, "r1", bold=True, colour=RUNS[0])
    d.text(692, 216, "r4", bold=True, colour=RUNS[2])
    d.text(330, 222, "CloneModify r1, warm, another learning rate", anchor="middle", colour=RUNS[2])
    return d
