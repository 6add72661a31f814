"""What the harness costs on top of the SDK: whole processes, the same work, the same local server.

    python -m bench.overhead [--trials 400] [--concurrency 40] [--repeat 3]

Prints a line of JSON: the seconds of a bare loop over the SDK, of the harness's collection with its
run folder, and their ratio. The runs take turns, and the fastest of each sort counts: noise only
ever adds time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
TARGET = 1.25
PROMPT_CHARACTERS = 12_000

BARE = """
import asyncio, sys
import anthropic

async def main(url, trials, concurrency, prompt):
    client = anthropic.AsyncAnthropic(base_url=url, api_key="x", max_retries=2)
    gate = asyncio.Semaphore(concurrency)
    async def one(n):
        async with gate:
            async with client.messages.stream(
                model="local", max_tokens=32000, system="s",
                messages=[{"role": "user", "content": f"{n} {prompt}"}],
            ) as stream:
                return (await stream.get_final_message()).content[0].text
    texts = await asyncio.gather(*(one(n) for n in range(trials)))
    assert len(texts) == trials and all(len(text) > 20_000 for text in texts)

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), "x" * int(sys.argv[4])))
"""

HARNESS = """
import asyncio, sys
from pathlib import Path
from harness.models.collect import collect
from harness.models.live import Live
from harness.records import PlannedTrial, Request, Trial
from harness.store import Run

async def main(url, trials, concurrency, prompt, folder):
    planned = [
        PlannedTrial(
            Trial("case", "with", n),
            Request("local", "s", ({"role": "user", "content": f"{n} {prompt}"},), 32000, n),
        )
        for n in range(trials)
    ]
    run = Run.create(Path(folder) / "run", {}, planned)
    model = Live(base_url=url, api_key="x", concurrency=concurrency)
    done = await collect([p.request for p in planned], model, run, concurrency=concurrency)
    await model.aclose()
    assert len(done.stored) == trials and not done.failed

asyncio.run(
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), "x" * int(sys.argv[4]), sys.argv[5])
)
"""


def measure(trials: int, concurrency: int, repeat: int, latency: float) -> dict[str, float]:
    """Seconds of both sorts of process and their ratio."""
    server = subprocess.Popen(
        [sys.executable, ROOT / "tests/servers/messages_server.py", "--latency", str(latency)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin and server.stdout
    try:
        url = server.stdout.readline().strip()
        best: dict[str, float] = {}
        for _ in range(repeat):
            for name, code in (("bare_s", BARE), ("harness_s", HARNESS)):
                with tempfile.TemporaryDirectory() as folder:
                    values = [url, str(trials), str(concurrency), str(PROMPT_CHARACTERS), folder]
                    started = time.perf_counter()
                    subprocess.run([sys.executable, "-c", code, *values], check=True, cwd=ROOT)
                    seconds = time.perf_counter() - started
                best[name] = min(seconds, best.get(name, seconds))
    finally:
        server.stdin.close()
        server.wait(timeout=10)
    rounded = {name: round(seconds, 2) for name, seconds in best.items()}
    return {**rounded, "ratio": round(best["harness_s"] / best["bare_s"], 3), "target": TARGET}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--concurrency", type=int, default=40)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--latency", type=float, default=0.5)
    options = parser.parse_args()
    figures = measure(options.trials, options.concurrency, options.repeat, options.latency)
    print(json.dumps({"benchmark": "overhead", **vars(options), **figures}))


if __name__ == "__main__":
    main()
