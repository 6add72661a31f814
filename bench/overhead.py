"""What the harness costs on top of the SDK: whole processes, the same work, the same local server.

    python -m bench.overhead [--trials 400] [--concurrency 40] [--repeat 3]

Prints a line of JSON: the seconds of a bare loop over the SDK, of `harness run` with its plan and
its run folder, and their ratio. The runs take turns, and the fastest of each sort counts: noise
only ever adds time.
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
CASE = "parcel-labels"
PROMPT_CHARACTERS = 21_000
"""The mean of both arms of that case."""

BARE = """
import asyncio, sys
import anthropic

async def main(url, trials, concurrency, prompt):
    client = anthropic.AsyncAnthropic(base_url=url, api_key="x", max_retries=2)
    gate = asyncio.Semaphore(concurrency)
    async def one(n):
        async with gate:
            stream = await client.messages.create(
                model="local", max_tokens=32000, system="s", stream=True,
                messages=[{"role": "user", "content": f"{n} {prompt}"}],
            )
            return "".join([
                event.delta.text async for event in stream if event.type == "content_block_delta"
            ])
    texts = await asyncio.gather(*(one(n) for n in range(trials)))
    assert len(texts) == trials and all(len(text) > 20_000 for text in texts)

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), "x" * int(sys.argv[4])))
"""


def commands(url: str, trials: int, concurrency: int, folder: str) -> dict[str, list[str]]:
    """The two processes: the loop, with the same raw event stream, and the real command."""
    bare = [sys.executable, "-c", BARE, url, str(trials), str(concurrency)]
    harness = [sys.executable, "-m", "harness", "run", "--model", "local", "--base-url", url]
    harness += ["--case", CASE, "--epochs", str(trials // 2), "--concurrency", str(concurrency)]
    harness += ["--price", "0/0", "--run", str(Path(folder) / "run")]
    return {"bare_s": [*bare, str(PROMPT_CHARACTERS)], "harness_s": harness}


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
            for name in ("bare_s", "harness_s"):
                with tempfile.TemporaryDirectory() as folder:
                    command = commands(url, trials, concurrency, folder)[name]
                    started = time.perf_counter()
                    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
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
