"""Asks a live model for what a run is missing: the estimate, the question, the progress."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Sequence

from harness.errors import UserError
from harness.models.base import ModelError
from harness.models.budget import Budget, Price, estimate, parse_price, published, published_on
from harness.models.collect import Collected, Event, collect
from harness.models.live import Live
from harness.records import Request
from harness.reporting.progress import Progress
from harness.store import Run


def ask(run: Run, requests: Sequence[Request], args: argparse.Namespace, *, what: str) -> int:
    """Collects the missing responses and returns how many are missing still.

    Prints what it will cost and asks first, once in a command. `args` are the command's: `model`,
    `base_url`, `price`, `max_usd`, `concurrency`, `yes`. Raises UserError where the price of a
    model is not known, or where there is nobody to ask.
    """
    stored = run.responses()
    missing = {r.digest: r for r in requests if r.digest not in stored}
    if not missing:
        return 0
    budget = _budget(args)
    _confirm(list(missing.values()), args, budget, what)
    labels = {digest: trial.id for trial, digest in run.trials().items()}
    done = asyncio.run(_collect(run, list(missing.values()), args, budget, what, labels))
    if budget.spent:
        print(f"{what}: ${budget.spent:.2f} spent so far", file=sys.stderr)
    _tell_failures(done, what)
    return len(done.failed)


def _budget(args: argparse.Namespace) -> Budget:
    """The command's budget: one for its answers and its judge's verdicts together."""
    budget = getattr(args, "budget", None)
    if not isinstance(budget, Budget):
        given = getattr(args, "price", None)
        own = parse_price(given) if given else None

        def prices(model: str) -> Price | None:
            if own is not None and model == args.model:
                return own
            return published(model) or own

        budget = args.budget = Budget(getattr(args, "max_usd", None), prices)
    return budget


def _confirm(
    requests: Sequence[Request], args: argparse.Namespace, budget: Budget, what: str
) -> None:
    cost = estimate(requests, budget.price_of)
    models = ", ".join(sorted({request.model for request in requests}))
    count = f"{len(requests)} requests for {what} to {models}"
    if cost is None:
        if not args.base_url or budget.limit is not None:
            raise UserError(
                f"no price is known for {models}; give it with --price IN/OUT"
                " (dollars per million tokens)"
            )
        print(f"{count} at {args.base_url}", file=sys.stderr)
        return
    if not cost.worst:
        print(f"{count}, free of charge", file=sys.stderr)
        return
    limit = "" if budget.limit is None else f"; the limit is ${budget.limit:.2f}"
    print(
        f"{count}: about ${cost.likely:.2f}, at most ${cost.worst:.2f} if every answer takes its"
        f" whole length (prices of {published_on()}){limit}",
        file=sys.stderr,
    )
    if args.yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UserError("this costs money and there is no terminal to ask on; add --yes (YES=1)")
    print("Judging the answers comes on top. Ask? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError("nothing was sent", code=1)
    args.yes = True  # the verdicts on these answers were agreed to with them


async def _collect(
    run: Run,
    requests: Sequence[Request],
    args: argparse.Namespace,
    budget: Budget,
    what: str,
    labels: dict[str, str],
) -> Collected:
    with Progress(what, len(requests)) as progress:

        def on_event(event: Event) -> None:
            if event.kind in ("stored", "failed"):
                progress.step(labels.get(event.digest, event.digest[:12]))
            elif event.kind == "stopping":
                print(
                    f"\n{event.in_flight} answers are on their way and will be stored;"
                    " press Ctrl-C again to drop them",
                    file=sys.stderr,
                )

        told: set[str] = set()

        def on_retry(request: Request, error: ModelError, wait: float) -> None:
            if error.kind not in told:
                told.add(error.kind)
                print(f"{what}: {error}; trying again in {wait:.0f} s", file=sys.stderr)

        model = Live(
            base_url=args.base_url,
            concurrency=args.concurrency,
            budget=budget,
            on_retry=on_retry,
        )
        try:
            return await collect(
                requests, model, run, concurrency=args.concurrency, on_event=on_event
            )
        finally:
            await model.aclose()


def _tell_failures(done: Collected, what: str) -> None:
    """One line for each sort of failure, with its first message."""
    first: dict[str, ModelError] = {}
    for error in done.failed.values():
        first.setdefault(error.kind, error)
    for kind, number in Counter(error.kind for error in done.failed.values()).most_common():
        print(f"{what}: {number} missing, {kind}: {first[kind].message}", file=sys.stderr)
